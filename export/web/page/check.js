// The page's proof: the engine labels the bundle's golden samples here as far as it did where it was exported.

import { readPicture } from "./picture.js";

const percent = (share) => `${(100 * share).toFixed(2)} %`;
const codeOf = (red, green, blue) => (red << 16) | (green << 8) | blue;

async function fetchPicture(name) {
  const address = new URL(name, import.meta.url);
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${name} cannot be read: ${answer.status} ${answer.statusText}`);
  return readPicture(await answer.blob(), name);
}

/** How often two label maps agree, in all and by class. */
class Agreement {
  constructor(colors) {
    this.codes = colors.map((color) => codeOf(...color));
    this.equal = this.pixels = 0;
    this.both = colors.map(() => 0);
    this.either = colors.map(() => 0);
  }

  /** Add one picture: labels as numbers, and the reference's in the classes' colors. */
  add(labels, reference) {
    const classOf = new Map(this.codes.map((code, index) => [code, index]).reverse());
    const own = this.codes.map((code) => classOf.get(code));
    const colors = reference.pixels;
    for (let at = 0; at < labels.length; at++) {
      const found = own[labels[at]];
      const expected = classOf.get(codeOf(colors[4 * at], colors[4 * at + 1], colors[4 * at + 2]));
      this.either[found]++;
      if (found === expected) {
        this.equal++;
        this.both[found]++;
      } else if (expected !== undefined) this.either[expected]++;
    }
    this.pixels += labels.length;
  }

  get share() {
    return this.equal / this.pixels;
  }

  iou(index) {
    return this.either[index] ? this.both[index] / this.either[index] : 0;
  }
}

/** What falls short of the limits, one clause each. */
function shortfalls(description, limits, samples, photograph) {
  const faults = [];
  if (samples.share < limits.pixels) {
    faults.push(`${percent(samples.share)} of the golden pixels as in PyTorch, at least ${percent(limits.pixels)} expected`);
  }
  const classes = Object.entries(limits.classes)
    .map(([name, limit]) => ({ name, limit, iou: samples.iou(description.classes.indexOf(name)) }))
    .filter(({ iou, limit }) => iou < limit)
    .map(({ name, limit, iou }) => `${name} ${percent(iou)} (at least ${percent(limit)})`);
  if (classes.length) faults.push(`IoU with PyTorch by class: ${classes.join(", ")}`);
  if (photograph.share < limits.photograph) {
    faults.push(`${percent(photograph.share)} of the photograph as in PyTorch, at least ${percent(limits.photograph)} expected`);
  }
  return faults;
}

/**
 * Label every golden sample and compare.
 * @param {(done: number, all: number) => void} tell hears how the check goes on
 * @returns {Promise<{ok: boolean, text: string, samples: number, photograph: number}>}
 */
export async function check(description, engineRecord, engine, tell) {
  const samples = new Agreement(description.palette);
  const photograph = new Agreement(description.palette);
  const pairs = [...description.samples.map((pair) => [pair, samples]), [description.photograph, photograph]];
  for (const [number, [pair, agreement]] of pairs.entries()) {
    tell(number + 1, pairs.length);
    const [picture, reference] = [await fetchPicture(pair.image), await fetchPicture(pair.labels)];
    if (picture.width !== reference.width || picture.height !== reference.height) {
      throw new Error(`${pair.labels} is of another size than its picture`);
    }
    agreement.add((await engine.run(picture)).labels, reference);
  }
  const limits = engineRecord.limits;
  const faults = shortfalls(description, limits, samples, photograph);
  const text = faults.length
    ? `Not verified in this browser: ${faults.join("; ")}.`
    : `Verified in this browser: ${percent(samples.share)} of the golden pixels as in PyTorch ` +
      `(at least ${percent(limits.pixels)}).`;
  return { ok: !faults.length, text, samples: samples.share, photograph: photograph.share };
}
