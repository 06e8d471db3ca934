// Drawing label maps: over the photograph, or alone in the classes' colors.

const OPAQUE = 255;

/** One color a class as a canvas stores it: R, G, B, A; `alpha` 0-255 for each class. */
function table(palette, alpha) {
  return new Uint32Array(
    new Uint8Array(palette.flatMap((color, index) => [...color, alpha[index]])).buffer,
  );
}

/** A canvas of the labels at width x height, nearest neighbor. */
function colored(result, width, height, colors) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * result.height) / height) * result.width;
    for (let x = 0; x < width; x++) {
      out[to++] = colors[result.labels[row + Math.floor(((x + 0.5) * result.width) / width)]];
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draw photograph and labels into `canvas`. */
export function drawOverlay(canvas, result, { width, height, palette, hidden, opacity }) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(result.bitmap, 0, 0, width, height);
  const alpha = palette.map((_, index) => (hidden.has(index) ? 0 : OPAQUE));
  context.globalAlpha = opacity;
  context.drawImage(colored(result, width, height, table(palette, alpha)), 0, 0);
  context.globalAlpha = 1;
}

/** A canvas of every label in its color, at the photograph's own size. */
export function drawMask(result, palette) {
  return colored(result, result.width, result.height, table(palette, palette.map(() => OPAQUE)));
}

/** Pixels of each class. */
export function areasOf(labels, classes) {
  const counts = new Array(classes).fill(0);
  for (const label of labels) counts[label]++;
  return counts;
}
