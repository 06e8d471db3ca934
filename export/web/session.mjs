// One engine for fptk's WebSession: images come in on standard input, labels go out on standard output.
// node session.mjs RUNTIME MODEL THREADS
//
// Every message has a header of little-endian uint32. In: batch, height, width, and then the bytes of the images, uint8
// RGB. Out: status (0 is well), length, and then either labels behind the milliseconds of the inference (float64), or
// the error as UTF-8. The first message out tells, as JSON, what was opened.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [runtime, model, threads] = process.argv.slice(2);

// What ONNX Runtime prints must not end up among the labels.
for (const name of ["log", "info", "debug"]) console[name] = console.error;

/** Write a message whole. */
function answer(status, ...parts) {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(status, 0);
  header.writeUInt32LE(parts.reduce((sum, part) => sum + part.length, 0), 4);
  return new Promise((resolve) => process.stdout.write(Buffer.concat([header, ...parts]), resolve));
}

const failed = (error) => answer(1, Buffer.from(String(error?.message ?? error)));

/** Hands out standard input in pieces of a wanted length; null at its end. */
function reader(stream) {
  const chunks = stream[Symbol.asyncIterator]();
  let held = [];
  let length = 0;
  return async (wanted) => {
    while (length < wanted) {
      const { value, done } = await chunks.next();
      if (done) return null;
      held.push(value);
      length += value.length;
    }
    const all = Buffer.concat(held, length);
    held = [all.subarray(wanted)];
    length -= wanted;
    return all.subarray(0, wanted);
  };
}

async function main() {
  const ort = await import(pathToFileURL(runtime));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = Number(threads);
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // errors only
  const session = await ort.InferenceSession.create(await readFile(model), options);
  const shapes = (tensors) => tensors.map(({ name, type, shape }) => ({ name, type, shape }));
  const opened = {
    threads: ort.env.wasm.numThreads,
    inputs: shapes(session.inputMetadata),
    outputs: shapes(session.outputMetadata),
  };
  await answer(0, Buffer.from(JSON.stringify(opened)));
  const read = reader(process.stdin);
  for (let header; (header = await read(12)); ) {
    const [batch, height, width] = [0, 4, 8].map((at) => header.readUInt32LE(at));
    const pixels = await read(batch * height * width * 3);
    if (!pixels) return;
    try {
      const images = new ort.Tensor("uint8", new Uint8Array(pixels), [batch, height, width, 3]);
      const start = performance.now();
      const results = await session.run({ [session.inputNames[0]]: images });
      const took = Buffer.alloc(8);
      took.writeDoubleLE(performance.now() - start);
      const labels = results[session.outputNames[0]].data;
      await answer(0, took, Buffer.from(labels.buffer, labels.byteOffset, labels.byteLength));
    } catch (error) {
      await failed(error);
    }
  }
}

main()
  .catch(failed)
  .finally(() => process.exit()); // its threads would keep it alive
