// Parse a photograph with an `onnx` bundle of fptk, in Node.js: node parse.js BUNDLE PHOTOGRAPH MASK.png

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import * as ort from "onnxruntime-node";
import sharp from "sharp";

import { resizeImage, resizeLabels } from "./resize.js";

const RUNS = 20;

/** Upright RGB with 8 bits a channel; color profiles are ignored, as in training. */
async function readPhotograph(path) {
  const upright = sharp(path, { ignoreIcc: true }).autoOrient().toColorspace("srgb").removeAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  return { pixels: data, height: info.height, width: info.width };
}

/** Write a label map as RGB in the bundle's colors. */
async function writeMask(path, labels, height, width, palette) {
  const colors = Buffer.alloc(labels.length * 3);
  labels.forEach((label, at) => colors.set(palette[label], at * 3));
  await sharp(colors, { raw: { height, width, channels: 3 } }).png().toFile(path);
}

async function main([folder, photographPath, maskPath]) {
  if (!maskPath) throw new Error("usage: node parse.js BUNDLE PHOTOGRAPH MASK.png");
  if (existsSync(maskPath)) throw new Error(`${maskPath} exists; choose another name`);
  const manifest = JSON.parse(readFileSync(join(folder, "fptk.json"), "utf8"));
  const { size, resize } = manifest.preprocess;
  if (manifest.target !== "onnx" || !manifest.engine) throw new Error(`${folder} holds no onnx engine`);
  if (resize !== "bilinear") throw new Error(`${folder} wants ${resize} resizing; this example has bilinear only`);
  const [height, width] = size;
  const photograph = await readPhotograph(photographPath);
  const images = new ort.Tensor("uint8", resizeImage(photograph, height, width), [1, height, width, 3]);

  const session = await ort.InferenceSession.create(join(folder, manifest.engine));
  const run = async () => (await session.run({ [manifest.input.name]: images }))[manifest.output.name].data;
  const labels = await run();
  const start = performance.now();
  for (let i = 0; i < RUNS; i++) await run();
  const fps = (1000 * RUNS) / (performance.now() - start);

  const full = resizeLabels({ pixels: labels, height, width }, photograph.height, photograph.width);
  await writeMask(maskPath, full, photograph.height, photograph.width, manifest.palette);
  console.log(`${fps.toFixed(1)} FPS, wrote ${maskPath}`);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 2;
});
