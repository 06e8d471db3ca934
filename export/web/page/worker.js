// One engine in a thread of its own: RGBA pixels in, labels out. The page stays awake while it computes.

import { resizeImage, resizeLabels } from "./resize.js";

const ORT = new URL("./ort/", import.meta.url);
const MODULES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

const ERRORS = 3; // ONNX Runtime's level: that some nodes stay on the CPU is no news for a visitor

let ort, session, page;

/** Load ONNX Runtime and the engine. */
async function open({ engine, backend, threads, description }) {
  page = description;
  ort = await import(new URL(MODULES[backend], ORT));
  ort.env.wasm.wasmPaths = ORT.href;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const answer = await fetch(engine);
  if (!answer.ok) throw new Error(`${engine} cannot be read: ${answer.status} ${answer.statusText}`);
  const model = new Uint8Array(await answer.arrayBuffer());
  session = await ort.InferenceSession.create(model, { executionProviders: [backend], logSeverityLevel: ERRORS });
  return { result: { threads: backend === "wasm" ? ort.env.wasm.numThreads : 1 } };
}

/** Canvases hold four channels, engines take three. */
function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

/** Labels of a picture at its own size, and the milliseconds that the network and all around it took. */
async function run({ pixels, width, height }) {
  const start = performance.now();
  const [toHeight, toWidth] = page.size;
  const image = resizeImage({ pixels: withoutAlpha(new Uint8Array(pixels)), height, width }, toHeight, toWidth);
  const tensor = new ort.Tensor("uint8", image, [1, toHeight, toWidth, 3]);
  const called = performance.now();
  const { [page.output]: output } = await session.run({ [page.input]: tensor });
  const found = output.data ?? (await output.getData());
  const network = performance.now() - called;
  const labels = resizeLabels({ pixels: found, height: toHeight, width: toWidth }, height, width);
  const preparation = performance.now() - start - network;
  return { result: { labels, network, preparation }, moved: [labels.buffer] };
}

const TASKS = { open, run };

self.onmessage = async ({ data: { id, task, given } }) => {
  try {
    const { result, moved = [] } = await TASKS[task](given);
    self.postMessage({ id, result }, moved);
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
