// Resizing as Pillow does it, to the bit: the network was trained on images that Pillow resized.
//
// Canvas, sharp and OpenCV don't widen the filter when they shrink, or round elsewhere. Source of the arithmetic:
// https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c and Geometry.c

const BITS = 22; // Pillow's weights are whole numbers of 2^-22

/** For each of `to` pixels: the first of the `from` pixels that it mixes, and their weights. */
function bilinearWeights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1); // wider than a pixel where the image shrinks: antialiasing
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let at = first; at < end; at++) {
      // Pillow multiplies by the inverse of the support.
      weights.push(Math.max(0, 1 - Math.abs((at - center + 0.5) * (1 / support))));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** BITS)) };
  });
}

/**
 * Mix the pixels of one axis. The others are `outer` runs around it and `inner` numbers inside each of its pixels.
 * @returns {Uint8Array} of outer x to x inner
 */
function resizeAxis(pixels, outer, from, to, inner) {
  const result = new Uint8Array(outer * to * inner);
  const table = bilinearWeights(from, to);
  for (let run = 0; run < outer; run++) {
    for (let place = 0; place < to; place++) {
      const { first, weights } = table[place];
      const start = (run * from + first) * inner;
      for (let each = 0; each < inner; each++) {
        let sum = 2 ** (BITS - 1); // rounds half up
        for (let i = 0; i < weights.length; i++) sum += pixels[start + i * inner + each] * weights[i];
        result[(run * to + place) * inner + each] = Math.min(255, sum >> BITS);
      }
    }
  }
  return result;
}

/**
 * Antialiased bilinear resizing: one axis, rounded to 8 bits, then the other. Columns come first where the height shrinks
 * by more than twice what the width does: Pillow saves work so, and the rounding is another.
 * @param {{pixels: Uint8Array, height: number, width: number}} image RGB, pixels of height x width x 3
 * @returns {Uint8Array} of height x width x 3
 */
export function resizeImage(image, height, width) {
  const less = image.height - height;
  if (less > 0 && less > 2 * (image.width - width)) {
    const columns = resizeAxis(image.pixels, 1, image.height, height, image.width * 3);
    return resizeAxis(columns, height, image.width, width, 3);
  }
  const rows = resizeAxis(image.pixels, image.height, image.width, width, 3);
  return resizeAxis(rows, 1, image.height, height, width * 3);
}

/** For each of `to` pixels the one of `from` that it copies. Pillow adds up the step, and so its rounding. */
function nearest(from, to) {
  const step = from / to;
  const places = new Int32Array(to);
  for (let place = 0, at = step * 0.5; place < to; place++, at += step) places[place] = Math.trunc(at);
  return places;
}

/**
 * Nearest-neighbor resizing of a label map.
 * @param {{pixels: Uint8Array, height: number, width: number}} labels pixels of height x width
 * @returns {Uint8Array} of height x width
 */
export function resizeLabels(labels, height, width) {
  const rows = nearest(labels.height, height);
  const columns = nearest(labels.width, width);
  const result = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) result[y * width + x] = labels.pixels[rows[y] * labels.width + columns[x]];
  }
  return result;
}
