// The page: opens the engine, proves it on the golden samples, and then labels what a person gives it.

import { check } from "./check.js";
import { areasOf, drawMask, drawOverlay } from "./drawing.js";
import { Engine, hasWebGpu } from "./engine.js";
import { openCamera, PictureError, pixelsOf, readPicture } from "./picture.js";

const LARGEST_SHOWN = 1280; // pixels of the canvas on the page; what is saved has the photograph's own size
const BACKENDS = { wasm: "WebAssembly", webgpu: "WebGPU" };
const $ = (id) => document.getElementById(id);

const state = {
  description: null,
  engine: null, // opened and checked, or checked and found wrong on WebAssembly
  record: null, // its entry in the description
  backend: "wasm",
  hidden: new Set(),
  result: null, // what is on the canvas
  stream: null, // of the camera
  queue: Promise.resolve(), // one picture after the other
};

// What the page says

function verdict(kind, text) {
  $("verdict").dataset.state = kind;
  $("verdict").textContent = text;
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

const inWords = (error) => (error instanceof PictureError ? error.message : `That failed: ${error.message}`);

const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

// Engines

/** Open an engine on a backend and check it. On WebGPU it is taken only if the check passes. */
async function choose(record, backend) {
  enable(false);
  verdict("busy", `Loading ${record.name} on ${BACKENDS[backend]}…`);
  let engine;
  try {
    engine = await Engine.open(state.description, record, backend);
    const found = await check(state.description, record, engine, (done, all) =>
      verdict("busy", `Checking this browser: sample ${done} of ${all}…`),
    );
    if (!found.ok && backend === "webgpu") throw new Error(found.text);
    note(`${record.name} on ${BACKENDS[backend]}. ${found.text}`);
    state.engine?.close();
    Object.assign(state, { engine, record, backend, found });
  } catch (error) {
    engine?.close();
    if (!state.engine) {
      verdict("bad", `This browser cannot run the engine: ${error.message}`);
      throw error;
    }
    note(`${record.name} on ${BACKENDS[backend]} is not used. ${error.message}`);
    say(`${record.name} does not work on ${BACKENDS[backend]} in this browser, so it is not used. The reason stands below the classes.`);
  }
  verdict(state.found.ok ? "good" : "bad", state.found.text);
  $("engine").value = String(state.description.engines.indexOf(state.record));
  $("backend").value = state.backend;
  $("threads").textContent = state.backend === "wasm" ? String(state.engine.threads) : "–";
  enable(true);
}

/** Keep a finding where a person can read it later. */
function note(text) {
  const line = document.createElement("p");
  line.textContent = text;
  $("checks").append(line);
}

function enable(on) {
  for (const id of ["file", "camera", "engine", "backend"]) $(id).disabled = !on;
  for (const button of $("samples").children) button.disabled = !on;
  for (const id of ["save-mask", "save-overlay", "opacity"]) $(id).disabled = !on || !state.result;
}

// Pictures

/** Label a picture after those before it, and show it. */
function parse(picture, name) {
  const task = state.queue.then(async () => {
    $("busy").hidden = Boolean(state.stream);
    try {
      const { labels, network, preparation } = await state.engine.run(picture);
      state.result?.bitmap.close?.();
      state.result = { ...picture, pixels: null, labels, name };
      show(network, preparation);
    } finally {
      $("busy").hidden = true;
    }
  });
  state.queue = task.catch(() => {});
  return task;
}

function show(network, preparation) {
  const { width, height, labels } = state.result;
  const { classes } = state.description;
  $("time-network").textContent = milliseconds(network);
  $("time-preparation").textContent = milliseconds(preparation);
  $("picture-size").textContent = `${width} × ${height}`;
  const areas = areasOf(labels, classes.length);
  [...$("classes").children].forEach((item, index) => {
    const share = (100 * areas[index]) / labels.length;
    item.dataset.absent = String(!areas[index]);
    item.querySelector(".area").textContent = areas[index] ? `${share < 0.1 ? "< 0.1" : share.toFixed(1)} %` : "–";
  });
  const shown = classes.filter((_, index) => areas[index]);
  $("canvas").setAttribute("aria-label", `${state.result.name}, parsed: ${shown.join(", ")}`);
  draw();
  enable(true);
}

function look(width, height) {
  const { palette } = state.description;
  return { width, height, palette, hidden: state.hidden, opacity: $("opacity").value / 100 };
}

function draw() {
  if (!state.result) return;
  const { width, height } = state.result;
  const scale = Math.min(1, LARGEST_SHOWN / Math.max(width, height));
  drawOverlay($("canvas"), state.result, look(Math.round(width * scale), Math.round(height * scale)));
}

async function openFile(file) {
  stopCamera();
  say("");
  try {
    await parse(await readPicture(file, file.name), file.name);
    press(null);
  } catch (error) {
    say(inWords(error));
  }
}

async function openSample(button, address) {
  stopCamera();
  say("");
  try {
    const name = address.split("/").at(-1);
    const answer = await fetch(new URL(address, import.meta.url));
    if (!answer.ok) throw new Error(`${name} cannot be read: ${answer.status} ${answer.statusText}`);
    await parse(await readPicture(await answer.blob(), name), name);
    press(button);
  } catch (error) {
    say(inWords(error));
  }
}

function press(chosen) {
  for (const button of $("samples").children) button.setAttribute("aria-pressed", String(button === chosen));
}

// Camera

async function toggleCamera() {
  if (state.stream) {
    stopCamera();
    return;
  }
  say("");
  try {
    state.stream = await openCamera($("video"));
  } catch (error) {
    say(inWords(error));
    return;
  }
  $("camera").textContent = "Stop camera";
  press(null);
  const own = state.stream;
  while (state.stream === own) {
    const { videoWidth, videoHeight } = $("video");
    try {
      const bitmap = await createImageBitmap($("video"));
      await parse({ ...pixelsOf(bitmap, videoWidth, videoHeight), bitmap }, "camera.png");
    } catch (error) {
      if (state.stream !== own) return; // it was stopped meanwhile
      say(inWords(error));
      stopCamera();
    }
    await new Promise(requestAnimationFrame);
  }
}

/** The last frame stays on the page. */
function stopCamera() {
  for (const track of state.stream?.getTracks() ?? []) track.stop();
  state.stream = null;
  $("video").srcObject = null;
  $("camera").textContent = "Use camera";
}

// Saving

function save(canvas, suffix) {
  canvas.toBlob((blob) => {
    if (!blob) {
      say("The browser has not enough memory to save a picture of this size.");
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${state.result.name.replace(/\.[^.]*$/, "")}-${suffix}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}

function saveOverlay() {
  const { width, height } = state.result;
  const canvas = document.createElement("canvas");
  drawOverlay(canvas, state.result, look(width, height));
  save(canvas, "overlay");
}

// Start

function listClasses() {
  const { classes, palette } = state.description;
  classes.forEach((name, index) => {
    // Black is what a palette gives to nothing: it would only darken the photograph.
    const black = palette[index].every((channel) => channel === 0);
    if (black) state.hidden.add(index);
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !black });
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(index);
      else state.hidden.add(index);
      draw();
    });
    const parts = ["swatch", "name", "area"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      return part;
    });
    parts[0].style.backgroundColor = `rgb(${palette[index].join(" ")})`;
    parts[1].textContent = name;
    parts[2].textContent = "–";
    label.append(box, ...parts);
    item.append(label);
    $("classes").append(item);
  });
}

function setAll(on) {
  for (const box of $("classes").querySelectorAll("input")) {
    if (box.checked !== on) box.click();
  }
}

function listSamples() {
  const { samples, photograph } = state.description;
  for (const [number, { image }] of [photograph, ...samples].entries()) {
    const picture = new Image();
    picture.src = new URL(image, import.meta.url).href;
    picture.alt = `Sample ${number + 1}`;
    const button = document.createElement("button");
    button.type = "button";
    button.disabled = true;
    button.append(picture);
    button.addEventListener("click", () => openSample(button, image));
    $("samples").append(button);
  }
}

async function listChoices() {
  state.description.engines.forEach(({ name, megabytes }, index) => {
    $("engine").append(new Option(`${name} (${megabytes} MB)`, String(index)));
  });
  $("backend").append(new Option(BACKENDS.wasm, "wasm"));
  if (state.description.webgpu && (await hasWebGpu())) $("backend").append(new Option(BACKENDS.webgpu, "webgpu"));
}

function listen() {
  const { engines } = state.description;
  const chosen = () => choose(engines[Number($("engine").value)], $("backend").value).catch(() => {});
  for (const id of ["engine", "backend"]) {
    $(id).addEventListener("change", async () => {
      stopCamera();
      say("");
      await chosen();
    });
  }
  $("file").addEventListener("change", () => {
    if ($("file").files.length) openFile($("file").files[0]);
    $("file").value = "";
  });
  $("camera").addEventListener("click", toggleCamera);
  $("opacity").addEventListener("input", () => {
    $("opacity-value").textContent = `${$("opacity").value} %`;
    draw();
  });
  $("all").addEventListener("click", () => setAll(true));
  $("none").addEventListener("click", () => setAll(false));
  $("save-mask").addEventListener("click", () => save(drawMask(state.result, state.description.palette), "mask"));
  $("save-overlay").addEventListener("click", saveOverlay);
  listenForDrops();
}

/** Drops count anywhere on the page: a file that misses the stage must not replace the page. */
function listenForDrops() {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = !depth;
  };
  addEventListener("dragenter", () => mark(1));
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-depth);
    const file = event.dataTransfer.files[0];
    if (!file) say("That was no file. Drop a JPEG, PNG or WebP file.");
    else if ($("file").disabled) say("The engine is still being checked. Drop the file again in a moment.");
    else openFile(file);
  });
}

async function start() {
  const answer = await fetch(new URL("page.json", import.meta.url));
  if (!answer.ok) throw new Error(`page.json cannot be read: ${answer.status} ${answer.statusText}`);
  const description = (state.description = await answer.json());
  $("lead").textContent =
    `${description.model} gives every pixel one of ${description.classes.length} classes. Your pictures stay on this device.`;
  $("footer").textContent = `Engine by fptk ${description.fptk}, run by ONNX Runtime Web ${description.runtime}. Samples: ${description.license}.`;
  note("It labels the pictures that came with the engine, and compares every pixel with what PyTorch gave in FP32. WebGPU is used only where it passes this check too.");
  if (!self.crossOriginIsolated) {
    note("The server of this page sends no isolation headers, so WebAssembly has one thread. fptk serve sends them.");
  }
  listClasses();
  listSamples();
  await listChoices();
  listen();
  await choose(description.engines[0], "wasm");
  await openSample($("samples").firstElementChild, description.photograph.image);
}

start().catch((error) => {
  if ($("verdict").dataset.state !== "bad") verdict("bad", `This page cannot start: ${error.message}`);
});
