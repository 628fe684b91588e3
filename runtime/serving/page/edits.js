// A slider for each direction of the model. At 0 a direction changes nothing.

import { change, state } from "./state.js";
import { fetchDirections } from "./transport.js";

// The greatest strength of a slider, in standard deviations, for directions of w and for single styles.
const MOST = { w: 5, styles: 20 };
const STEP = 0.1;
// With more directions than this there is a filter.
const FILTERED_FROM = 12;
// Sliders at a time, beside those that are moved.
const DRAWN = 40;

const group = document.querySelector("#edits");
const list = document.querySelector("#edits-rows");
const filter = document.querySelector("#edits-filter");
const rest = document.querySelector("#edits-rest");
const reset = document.querySelector("#edits-reset");
let directions = [];
let rows = new Map();

export function startEdits() {
  filter.addEventListener("input", drawRows);
  reset.addEventListener("click", () => change({ edits: {} }));
}

// Shows the directions of a model, and forgets the edits that it does not know. Returns why they could not be loaded, or "".
export async function useDirections(model) {
  let found = [];
  let problem = "";
  try {
    if (model.directions) found = await fetchDirections(model);
  } catch (error) {
    problem = error.message; // images need no directions
  }
  if (state.model !== model.name) return ""; // another one was chosen meanwhile
  directions = found;
  filter.value = "";
  filter.parentElement.hidden = directions.length < FILTERED_FROM;
  group.hidden = !directions.length;
  state.edits = ordered((direction) => Math.min(Math.max(state.edits[direction.name] ?? 0, -MOST[direction.space]), MOST[direction.space]));
  drawRows();
  return problem;
}

// Sets the sliders to the choices.
export function drawEdits() {
  for (const [name, { slider, value, row }] of rows) {
    const strength = state.edits[name] ?? 0;
    slider.value = strength;
    value.textContent = strength > 0 ? `+${strength}` : String(strength).replace("-", "−");
    row.classList.toggle("moved", strength !== 0);
  }
  reset.disabled = !Object.keys(state.edits).length;
}

function drawRows() {
  const wanted = filter.value.trim().toLowerCase();
  const matching = directions.filter(({ name }) => name.toLowerCase().includes(wanted));
  const drawn = new Set([...directions.filter(({ name }) => name in state.edits), ...matching.slice(0, DRAWN)]);
  rows = new Map(directions.filter((direction) => drawn.has(direction)).map((direction) => [direction.name, newRow(direction)]));
  list.replaceChildren(...[...rows.values()].map(({ row }) => row));
  const missing = matching.filter((direction) => !drawn.has(direction)).length;
  rest.hidden = !missing && matching.length > 0;
  rest.textContent = missing ? `${missing} more: filter by name.` : "No direction has this name.";
  drawEdits();
}

function newRow(direction) {
  const row = document.createElement("label");
  const name = document.createElement("span");
  name.textContent = direction.name;
  name.title = [direction.name, direction.method, direction.latents.length ? `latents ${direction.latents.join(", ")}` : "styles"].filter(Boolean).join(" · ");
  const slider = document.createElement("input");
  const most = MOST[direction.space];
  Object.assign(slider, { type: "range", min: -most, max: most, step: STEP });
  slider.dataset.direction = direction.name;
  const value = document.createElement("output");
  row.append(name, slider, value);
  const move = (strength) => change({ edits: ordered(({ name }) => (name === direction.name ? strength : (state.edits[name] ?? 0))) });
  slider.addEventListener("input", () => move(Number(slider.value)));
  row.addEventListener("dblclick", () => move(0));
  slider.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") move(0);
  });
  return { row, slider, value };
}

// Edits in the order of the directions, without zeros: the same choices are always the same request.
function ordered(strengthOf) {
  return Object.fromEntries(directions.map((direction) => [direction.name, strengthOf(direction)]).filter(([, strength]) => strength !== 0));
}
