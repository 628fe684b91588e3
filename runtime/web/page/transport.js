// The way to the worker that makes the pictures in this browser. The page of `stylert serve` has another module of this name, with
// the same exports.

import { isolate } from "./isolation.js";

const MAX_THREADS = 8;
// Up to this size a network takes half of the processors. Its layers are so small that threads mostly wait for each other, and the
// browser needs processors as well.
const SMALL_SIDE = 128;
const THUMBNAIL_QUALITY = 85;
const queue = [];
const directionsOf = new Map(); // { sha256, directions } by the name of the model
let site = null;
let models = [];
let worker = null;
let serving = null;

// Formats of a download, by suffix.
export const FORMATS = { png: "PNG", jpg: "JPEG" };
// Title above the text of `sourceOf`.
export const SOURCE_TITLE = "The recipe";

// The models that make pictures: name, resolution, precision, backend, classes, and the latents of each style level.
export async function fetchModels() {
  await isolate();
  const answer = await fetch("models.json");
  if (!answer.ok) throw new Error(`models.json cannot be loaded: status ${answer.status}.`);
  site = await answer.json();
  const hasGpu = "webgpu" in site.runtime_bytes && (await navigator.gpu?.requestAdapter().catch(() => null));
  for (const model of site.models) {
    const threads = threadsFor(model.resolution);
    models.push({ ...model, threads, provider: "wasm", backend: `WebAssembly, ${threads === 1 ? "1 thread" : `${threads} threads`}` });
    if (hasGpu && model.precision === "fp32") models.push({ ...model, threads, name: `${model.name}.webgpu`, provider: "webgpu", backend: "WebGPU" });
  }
  for (const model of models) model.runtime_bytes = site.runtime_bytes;
  if (models.some((model) => model.channels % 2 === 0)) delete FORMATS.jpg; // JPEG has no alpha
  return models;
}

// The directions of a model: name, space, latents, method. A path with edits needs them.
export async function fetchDirections(model) {
  const answer = await fetch(model.files.directions.path);
  if (!answer.ok) throw new Error(`${model.files.directions.path} cannot be loaded: status ${answer.status}.`);
  const document = await answer.json();
  directionsOf.set(model.name, document);
  return document.directions;
}

// The picture file of a path such as `v1/images/5.png?psi=0.7`, as a Blob. Pictures are made one after the other, those of
// a lower `rank` first.
export function fetchPicture(path, { rank = 2, download = false } = {}) {
  return new Promise((resolve, reject) => {
    const later = queue.findIndex((waiting) => waiting.rank > rank);
    queue.splice(later < 0 ? queue.length : later, 0, { rank, task: taskOf(path, download), resolve, reject });
    serveNext();
  });
}

// Drags need the network in torch, so no model of this page has them.
export async function dragPicture() {
  throw new Error("This page has no drags.");
}

export async function pictureOfLatents() {
  throw new Error("This page has no drags.");
}

// A text from which a person can make the picture of a path elsewhere.
export function sourceOf(path) {
  const { model, order } = readPath(path);
  return recipeOf(model, order);
}

function threadsFor(resolution) {
  if (!crossOriginIsolated) return 1;
  const processors = navigator.hardwareConcurrency;
  return Math.min(resolution <= SMALL_SIDE ? Math.ceil(processors / 2) : processors, MAX_THREADS);
}

function serveNext() {
  if (serving || !queue.length) return;
  serving = queue.shift();
  worker = workerOf(serving.task.model.threads);
  worker.postMessage(serving.task);
}

// ONNX Runtime Web starts its threads once, so another number of them needs another worker.
function workerOf(threads) {
  if (worker?.threads === threads) return worker;
  worker?.terminate();
  return Object.assign(newWorker(), { threads });
}

function newWorker() {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data }) => {
    if ("loaded" in data) return document.dispatchEvent(new CustomEvent("loading", { detail: progress(data) }));
    finish((task) => ("blob" in data ? task.resolve(data.blob) : task.reject(new Error(data.error))));
  });
  worker.addEventListener("error", (event) => finish((task) => task.reject(new Error(event.message || "The worker of this page cannot be loaded."))));
  return worker;
}

function finish(settle) {
  const task = serving;
  serving = null;
  if (task) settle(task);
  serveNext();
}

function progress({ loaded, total }) {
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  return loaded < total ? `Loading ${megabytes(loaded)} of ${megabytes(total)} MB` : "Preparing the network";
}

function taskOf(path, download) {
  const { model, order, suffix, size } = readPath(path);
  // A picture that is only shown is a PNG file, since its pixels need no compression.
  const file = { suffix: download ? suffix : "png", size, comment: recipeOf(model, order), compress: download, quality: THUMBNAIL_QUALITY };
  return { model, order, file: download ? { ...file, quality: 90 } : file };
}

function readPath(path) {
  const url = new URL(path, document.baseURI);
  const [, seed, suffix] = url.pathname.match(/\/(\d+)\.(\w+)$/);
  const given = url.searchParams;
  const model = models.find((model) => model.name === given.get("model"));
  const latents = Array(model.num_ws).fill(Number(seed));
  for (const part of given.get("mix")?.split(";") ?? []) {
    const [level, source] = part.split(":");
    for (const index of model.levels[level]) latents[index] = Number(source);
  }
  const number = (name, otherwise) => (given.has(name) ? Number(given.get(name)) : otherwise);
  const order = { latents, psi: number("psi", 1), label: number("labels", null), toward: number("toward", null), at: number("at", 0), edits: readEdits(given.get("edits"), model) };
  return { model, order, suffix, size: number("size", model.resolution) };
}

// Edits with the places of their vectors: { name, strength, vector, latents }.
function readEdits(text, model) {
  if (!text) return [];
  const { directions } = directionsOf.get(model.name);
  return text.split(";").map((part) => {
    const [name, strength] = part.split(":");
    const vector = directions.findIndex((direction) => direction.name === name);
    return { name, strength: Number(strength), vector, latents: directions[vector].latents };
  });
}

// The recipe that `stylert again` reads. ONNX Runtime in Python makes the same picture.
function recipeOf(model, { latents, psi, label, toward, at, edits }) {
  const isOneSeed = toward === null && new Set(latents).size === 1;
  const first = latents[0];
  const isEdit = edits.length > 0;
  const generated = isEdit ? {} : { together: String(first) };
  const own = isOneSeed ? generated : { latents: latents.join(","), toward: toward ?? first, at };
  const moves = isEdit ? { directions: directionsOf.get(model.name).sha256, moves: edits.map(({ name, strength }) => `${name}=${strength}`) } : {};
  return JSON.stringify({
    "AI-generated": true,
    command: isOneSeed ? (isEdit ? "edit" : "generate") : "compose",
    stylert: site.stylert,
    bundle: model.sha256,
    backend: "onnxruntime",
    precision: model.precision,
    seeds: String(first),
    psi: [psi],
    ...(label === null ? {} : { class: label }),
    ...own,
    ...moves,
    batch: 1,
  });
}
