// Handles that pull points of the large picture, and the mask of what may change. The server moves the latents.

import { drawOverlay } from "./overlay.js";
import { request, state, subscribe } from "./state.js";
import { dragPicture, pictureOfLatents } from "./transport.js";

// Pixels from its target at which a handle has arrived.
const REACH = 1;
const find = (id) => document.getElementById(id);
const canvas = find("handles");
const mask = document.createElement("canvas"); // white where the picture may change, at the size of the network's images
let model = null;
let picture = null;
let say = () => {};
let onResult = () => {};
let handles = []; // [x, y, target x, target y] in pixels of the network's image; the target is null until it is chosen
let held = null; // the handle whose target follows the pointer
let tool = "handle";
let isPainting = false;
let hasMask = false;
let isRunning = false;
let results = []; // of the drags of this picture, the newest last: { ws, blob }

// `shown` is the large picture, `tell` shows a message, and `onChange` is called when the picture becomes a dragged one or stops being it.
export function startDrags(shown, tell, onChange) {
  [picture, say, onResult] = [shown, tell, onChange];
  find("drag-mode").addEventListener("click", () => setMode(canvas.hidden));
  find("drag-handle").addEventListener("click", () => setTool("handle"));
  find("drag-brush").addEventListener("click", () => setTool("brush"));
  find("drag-add").addEventListener("click", addHandle);
  find("drag-clear").addEventListener("click", clearMarks);
  find("drag-undo").addEventListener("click", undoDrag);
  find("drag-run").addEventListener("click", run);
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, release);
  new ResizeObserver(draw).observe(canvas);
  subscribe((changes) => {
    if (!Object.keys(changes).every((name) => name === "active")) forget(); // the picture is another one now
  });
}

// Shows the part of the page for a model that can be dragged.
export function useDrags(chosen) {
  model = chosen;
  [mask.width, mask.height] = [model.resolution, model.resolution];
  find("drag").hidden = !model.drags;
  if (!model.drags) setMode(false);
  forget();
  clearMarks();
}

// The latents of the dragged picture, or null while the picture is that of the choices.
export const draggedLatents = () => results.at(-1)?.ws ?? null;

// The dragged picture as a file of a format and size.
export const draggedFile = (format, size) => pictureOfLatents({ model: state.model, ws: [draggedLatents()], format, size });

export function switchDragMode() {
  if (model?.drags) setMode(canvas.hidden);
}

export async function undoDrag() {
  if (!results.length || isRunning) return;
  results.pop();
  find("drag-report").textContent = "";
  if (results.length) await picture.put(results.at(-1).blob);
  onResult();
  draw();
}

function forget() {
  if (!results.length) return;
  results = [];
  find("drag-report").textContent = "";
  draw();
}

function setMode(isOn) {
  canvas.hidden = find("drag-tools").hidden = !isOn;
  find("drag-mode").setAttribute("aria-pressed", String(isOn));
  document.querySelector(".stage").classList.toggle("dragging", isOn);
  draw();
}

function setTool(name) {
  tool = name;
  for (const each of ["handle", "brush"]) find(`drag-${each}`).setAttribute("aria-pressed", String(each === name));
}

function clearMarks() {
  handles = [];
  held = null;
  hasMask = false;
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
  listHandles();
}

// The middle of the picture is the start of a handle that is added by keyboard.
function addHandle() {
  const middle = Math.floor(model.resolution / 2);
  const x = Math.min(model.resolution - 1, middle + 2 * handles.length);
  handles.push([x, middle, x, Math.max(0, middle - Math.ceil(model.resolution / 12))]);
  listHandles();
  const first = find("drag-list").lastElementChild.querySelector("input");
  first.focus();
  first.select();
}

function place(event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const at = (part) => Math.min(model.resolution - 1, Math.max(0, Math.floor(part * model.resolution)));
  return [at((event.clientX - left) / width), at((event.clientY - top) / height)];
}

function press(event) {
  if (isRunning || event.button !== 0) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  const [x, y] = place(event);
  if (tool === "brush") {
    isPainting = true;
    paint(x, y);
    return;
  }
  const waiting = handles.find((handle) => handle[2] === null);
  held = waiting ?? [x, y, null, null];
  if (!waiting) handles.push(held);
  move(event);
}

function move(event) {
  const [x, y] = place(event);
  if (isPainting) paint(x, y);
  if (held === null) return;
  const isAway = x !== held[0] || y !== held[1];
  [held[2], held[3]] = isAway ? [x, y] : [null, null];
  draw();
}

function release() {
  isPainting = false;
  if (held === null) return;
  held = null;
  listHandles();
}

function paint(x, y) {
  const pen = mask.getContext("2d");
  pen.fillStyle = "white";
  pen.beginPath();
  pen.arc(x + 0.5, y + 0.5, Number(find("drag-size").value) * (model.resolution / 64), 0, 2 * Math.PI);
  pen.fill();
  hasMask = true;
  draw();
}

function listHandles() {
  find("drag-list").replaceChildren(...handles.filter((handle) => handle[2] !== null).map(newRow));
  draw();
}

function newRow(handle, number) {
  const row = document.createElement("fieldset");
  const legend = row.appendChild(document.createElement("legend"));
  legend.className = "visually-hidden";
  legend.textContent = `Handle ${number + 1}`;
  ["x", "y", "target x", "target y"].forEach((name, i) => {
    if (i === 2) row.append("→");
    const input = row.appendChild(document.createElement("input"));
    Object.assign(input, { type: "number", min: 0, max: model.resolution - 1, value: handle[i] });
    input.setAttribute("aria-label", `Handle ${number + 1}: ${name}`);
    input.addEventListener("input", () => {
      handle[i] = Math.min(model.resolution - 1, Math.max(0, Math.round(Number(input.value)) || 0));
      draw();
    });
  });
  const remove = row.appendChild(document.createElement("button"));
  Object.assign(remove, { type: "button", textContent: "×" });
  remove.setAttribute("aria-label", `Remove handle ${number + 1}`);
  remove.addEventListener("click", () => {
    handles = handles.filter((other) => other !== handle);
    listHandles();
  });
  return row;
}

async function run() {
  const asked = state.model;
  const image = results.length ? { model: asked, ws: [draggedLatents()] } : request();
  const body = { image, handles: handles.filter((handle) => handle[2] !== null), ...(hasMask ? { mask: maskFile() } : {}) };
  isRunning = true;
  const before = JSON.stringify(request());
  find("drag-report").textContent = "The latents move …";
  draw();
  try {
    const found = await dragPicture(body);
    if (JSON.stringify(request()) !== before) return; // other choices were made meanwhile
    const blob = new Blob([Uint8Array.from(atob(found.base64), (letter) => letter.charCodeAt(0))], { type: found.media_type });
    results.push({ ws: found.ws, blob });
    await picture.put(blob);
    // Those that have not arrived go on from where they are.
    const left = body.handles.map((handle, i) => [...found.points[i].map(Math.round), handle[2], handle[3]]);
    handles = left.filter((handle, i) => found.distances[i] > REACH);
    find("drag-report").textContent = reportOf(found);
    say("");
    onResult();
  } catch (error) {
    find("drag-report").textContent = error.message;
  } finally {
    isRunning = false;
    listHandles();
  }
}

function reportOf(found) {
  const farthest = Math.max(...found.distances);
  const arrived = found.ending === "reached" ? "All handles arrived" : `The farthest handle is ${farthest.toFixed(1)} px from its target`;
  const kept = found.outside_psnr_db === null ? "" : ` Outside of the mask the picture is the old one to ${found.outside_psnr_db.toFixed(1)} dB.`;
  return `${arrived}: ${found.steps} steps in ${found.seconds.toFixed(1)} s.${kept}`;
}

// The mask as a PNG file in base64, black where nothing was painted.
function maskFile() {
  const file = document.createElement("canvas");
  [file.width, file.height] = [mask.width, mask.height];
  const pen = file.getContext("2d");
  pen.fillRect(0, 0, file.width, file.height);
  pen.drawImage(mask, 0, 0);
  return file.toDataURL("image/png").split(",")[1];
}

function draw() {
  find("drag-run").disabled = isRunning || !handles.some((handle) => handle[2] !== null);
  find("drag-run").textContent = isRunning ? "Running …" : "Run the drag";
  find("drag-undo").disabled = isRunning || !results.length;
  if (!canvas.hidden && model) drawOverlay(canvas, model.resolution, handles, hasMask ? mask : null);
}
