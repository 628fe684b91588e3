// Starts the page: the model, the large picture and its controls. The other modules draw the seeds, the slots and the times.

import { draggedFile, draggedLatents, startDrags, switchDragMode, undoDrag, useDrags } from "./drag.js";
import { drawEdits, startEdits, useDirections } from "./edits.js";
import { startGallery } from "./gallery.js";
import { addTime } from "./latency.js";
import { Picture } from "./picture.js";
import { startSlots } from "./slots.js";
import { SLOTS, change, path, query, randomSeed, readAddress, state, subscribe } from "./state.js";
import { FORMATS, SOURCE_TITLE, fetchModels, fetchPicture, sourceOf } from "./transport.js";

const find = (id) => document.getElementById(id);
const THUMBNAIL = 128;
const SIZES = [1, 2, 4];
const MAX_SIDE = 4096;
// Formats of a body, by the suffix of a path.
const API_FORMATS = { png: "png", jpg: "jpeg", webp: "webp" };
const image = find("picture");
const picture = new Picture(image, { onTime: pictureTook, onError: say, rank: 0 });
let models = [];
let isLoading = false;

async function start() {
  document.addEventListener("loading", showLoading);
  find("source-title").textContent = SOURCE_TITLE;
  models = await fetchModels();
  find("format").replaceChildren(...Object.entries(FORMATS).map(([suffix, name]) => new Option(name, suffix)));
  for (const model of models) find("model").append(new Option(`${model.name} · ${model.resolution} px · ${model.precision}`, model.name));
  const given = readAddress();
  const chosen = models.find((model) => model.name === given.model) ?? models[0];
  Object.assign(state, given, { model: chosen.name });
  startEdits();
  startDrags(picture, say, draw);
  await useModel(chosen);
  find("model").value = chosen.name;
  subscribe(draw);
  connect();
  draw(); // first, so that the large picture does not wait for the small ones
  startSlots(thumbnail);
  startGallery(thumbnail);
}

// The parameters of a small picture.
function thumbnail(parameters) {
  parameters.set("size", String(Math.min(THUMBNAIL, current().resolution)));
  parameters.set("quality", "85");
  return parameters;
}

function say(text, isError = true) {
  find("message").textContent = text;
  find("message").classList.toggle("error", isError);
}

function showLoading(event) {
  isLoading = true;
  say(event.detail, false);
}

// A picture that waited for its network says nothing about the next ones.
function pictureTook(milliseconds) {
  if (!isLoading) addTime(milliseconds);
  isLoading = false;
}

const current = () => models.find((model) => model.name === state.model);

async function useModel(model) {
  find("backend").textContent = model.backend;
  find("class-field").hidden = !model.classes;
  find("class").max = Math.max(0, model.classes - 1);
  state.label = model.classes ? Math.min(Number(find("class").value) || 0, model.classes - 1) : null;
  find("size").replaceChildren(...SIZES.map((n) => n * model.resolution).filter((n) => n <= MAX_SIDE).map((n) => new Option(`${n} px`, n)));
  for (const { name, isLevel } of SLOTS) {
    if (isLevel && !model.levels[name].length) state[name] = null; // a small network has no fine level
  }
  useDrags(model);
  const problem = await useDirections(model);
  if (problem) say(problem);
}

function connect() {
  find("model").addEventListener("change", async (event) => {
    state.model = event.target.value;
    await useModel(current());
    change({});
  });
  find("class").addEventListener("change", (event) => change({ label: Math.min(Math.max(0, Number(event.target.value) || 0), current().classes - 1) }));
  find("psi").addEventListener("input", (event) => change({ psi: Number(event.target.value) }));
  find("at").addEventListener("input", (event) => change({ at: Number(event.target.value) }));
  find("surprise").addEventListener("click", surprise);
  find("clear").addEventListener("click", clear);
  find("download").addEventListener("click", download);
  find("copy").addEventListener("click", () => navigator.clipboard?.writeText(find("source").textContent));
  find("theme").addEventListener("click", switchTheme);
  for (const id of ["format", "size"]) find(id).addEventListener("change", draw);
  image.addEventListener("pointerdown", startDrag);
  image.addEventListener("keydown", stepWithKeys);
  document.addEventListener("keydown", shortcut);
}

function draw() {
  const travels = state.toward !== null;
  find("psi").value = state.psi;
  find("psi-value").textContent = state.psi.toFixed(2);
  find("at").value = state.at;
  find("at").disabled = !travels;
  find("at-value").textContent = `${Math.round(100 * state.at)} %`;
  find("hint").hidden = travels;
  drawEdits();
  image.classList.toggle("travels", travels);
  image.setAttribute("aria-valuenow", String(Math.round(100 * state.at)));
  image.setAttribute("aria-disabled", String(!travels));
  const isDragged = draggedLatents() !== null;
  find("source").textContent = isDragged ? "The picture was dragged: its latents are in the answer of POST /v1/drag." : sourceOf(fullPath(), fileName());
  if (!isDragged) picture.show(path("png", query()));
}

function fullPath() {
  const parameters = query();
  if (Number(find("size").value) !== current().resolution) parameters.set("size", find("size").value);
  return path(find("format").value, parameters);
}

const fileName = () => `${state.model}-seed${state.base}${draggedLatents() === null ? "" : "-dragged"}.${find("format").value}`;

async function download() {
  try {
    const isDragged = draggedLatents() !== null;
    const blob = await (isDragged ? draggedFile(API_FORMATS[find("format").value], Number(find("size").value)) : fetchPicture(fullPath(), { rank: 0, download: true }));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = fileName();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    say(error.message);
  }
}

function surprise() {
  const filled = SLOTS.filter(({ name }) => name === "base" || state[name] !== null);
  change(Object.fromEntries(filled.map(({ name }) => [name, randomSeed()])));
}

function clear() {
  change({ coarse: null, middle: null, fine: null, toward: null, at: 0, active: "base" });
}

// Across the picture is all of the way from the seed at the left to the other seed at the right.
function startDrag(event) {
  if (state.toward === null) return;
  image.setPointerCapture(event.pointerId);
  const move = (at) => {
    const { left, width } = image.getBoundingClientRect();
    change({ at: Math.round(100 * Math.min(1, Math.max(0, (at.clientX - left) / width))) / 100 });
  };
  move(event);
  image.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) image.addEventListener(end, () => image.removeEventListener("pointermove", move), { once: true });
}

function stepWithKeys(event) {
  const by = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
  if (by === undefined || state.toward === null) return;
  event.preventDefault();
  change({ at: Math.round(100 * Math.min(1, Math.max(0, state.at + by))) / 100 });
}

function shortcut(event) {
  const isTyping = event.target.matches("input:not([type=range]), select, textarea");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const slot = SLOTS.find(({ number }) => event.key === String(number));
  const action = slot ? () => change({ active: slot.name }) : { r: surprise, c: clear, d: download, h: switchDragMode, z: undoDrag }[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
}

function switchTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
}

start().catch((error) => say(error.message));
