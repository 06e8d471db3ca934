// An engine as the page sees it: it opens in a worker, labels pictures one after the other, and can be closed.

const MOST_THREADS = 8; // more gain nothing on a network of this size

/** Threads that WebAssembly may use here: one where the server doesn't isolate the page. */
function threadsHere() {
  return self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
}

/** Whether this browser gives the page a GPU. */
export async function hasWebGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

export class Engine {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #next = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(event.message || "its worker cannot be loaded"));
    };
  }

  /** Load an engine of the page's description; `backend` is "wasm" or "webgpu". */
  static async open(description, engine, backend) {
    const made = new Engine();
    const address = new URL(engine.file, import.meta.url).href;
    try {
      const given = { engine: address, backend, threads: threadsHere(), description };
      made.threads = (await made.#ask("open", given)).threads;
    } catch (error) {
      made.close();
      throw error;
    }
    return made;
  }

  /** Labels (Uint8Array) of a picture at its own size, and times in ms. */
  run({ pixels, width, height }) {
    const copy = pixels.slice().buffer;
    return this.#ask("run", { pixels: copy, width, height }, [copy]);
  }

  close() {
    this.#worker.terminate();
    this.#fail(new Error("the engine was closed"));
  }

  #ask(task, given, moved = []) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, task, given }, moved);
    });
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
