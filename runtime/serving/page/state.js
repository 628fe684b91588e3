// The choices on the page. Whoever wants to know of a change subscribes. The address keeps them, so that a link shares a picture.

export const SLOTS = [
  { name: "base", title: "Seed", number: 1 },
  { name: "coarse", title: "Coarse", number: 2, isLevel: true },
  { name: "middle", title: "Middle", number: 3, isLevel: true },
  { name: "fine", title: "Fine", number: 4, isLevel: true },
  { name: "toward", title: "Towards", number: 5 },
];
// Changes that leave the image of one seed.
export const ONE_SEED = { coarse: null, middle: null, fine: null, toward: null, edits: {} };
export const MAX_SEED = 4294967295;
// Browsers refuse a page that changes its address more than 100 times in 30 seconds, as a slider would.
const ADDRESS_MILLISECONDS = 500;
let resting = 0;
let isBehind = false;

const listeners = [];
export const state = { model: "", label: null, psi: 0.7, at: 0, base: 0, coarse: null, middle: null, fine: null, toward: null, active: "base", edits: {} };

export function subscribe(listener) {
  listeners.push(listener);
}

export function change(changes) {
  Object.assign(state, changes);
  if (state.toward === null) state.at = 0;
  keepAddress();
  for (const listener of listeners) listener(changes);
}

// Parameters of a picture as the API takes them. `changes` replaces some choices.
export function query(changes = {}) {
  const chosen = { ...state, ...changes };
  const parameters = new URLSearchParams({ model: chosen.model, psi: String(chosen.psi) });
  if (chosen.label !== null) parameters.set("labels", String(chosen.label));
  const mix = SLOTS.filter((slot) => slot.isLevel && chosen[slot.name] !== null).map((slot) => `${slot.name}:${chosen[slot.name]}`);
  if (mix.length) parameters.set("mix", mix.join(";"));
  if (chosen.toward !== null && chosen.at > 0) {
    parameters.set("toward", String(chosen.toward));
    parameters.set("at", String(chosen.at));
  }
  if (Object.keys(chosen.edits).length) parameters.set("edits", textOf(chosen.edits));
  return parameters;
}

// The picture as the body of a request takes it.
export function request() {
  const mix = Object.fromEntries(SLOTS.filter((slot) => slot.isLevel && state[slot.name] !== null).map((slot) => [slot.name, state[slot.name]]));
  const toward = state.toward !== null && state.at > 0 ? { toward: state.toward, at: state.at } : {};
  const labels = state.label === null ? {} : { labels: [state.label] };
  return { model: state.model, seeds: [state.base], psi: state.psi, ...labels, mix, ...toward, edits: state.edits };
}

export function path(format, parameters, seed = state.base) {
  return `v1/images/${seed}.${format}?${readable(parameters)}`;
}

const readable = (parameters) => parameters.toString().replaceAll("%3A", ":").replaceAll("%3B", ";");

// Strengths by direction as text such as `smile:2;pose:-1`.
const textOf = (edits) => Object.entries(edits).map(([name, strength]) => `${name}:${strength}`).join(";");

function readEdits(text) {
  const pairs = text.split(";").map((part) => part.split(":")).map(([name, strength]) => [name, Number(strength)]);
  return Object.fromEntries(pairs.filter(([name, strength]) => name && Number.isFinite(strength) && strength !== 0));
}

export const randomSeed = () => Math.floor(Math.random() * 100000);

export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const changes = {};
  for (const { name } of SLOTS) {
    const seed = Number(given.get(name));
    if (given.has(name) && Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED) changes[name] = seed;
  }
  for (const [name, least, most] of [["psi", -1, 1.5], ["at", 0, 1]]) {
    const value = Number(given.get(name));
    if (given.has(name) && value >= least && value <= most) changes[name] = value;
  }
  if (given.has("edits")) changes.edits = readEdits(given.get("edits"));
  if (given.has("model")) changes.model = given.get("model");
  return changes;
}

function keepAddress() {
  isBehind = resting !== 0;
  if (isBehind) return;
  writeAddress();
  resting = setTimeout(() => {
    resting = 0;
    if (isBehind) keepAddress();
  }, ADDRESS_MILLISECONDS);
}

function writeAddress() {
  const kept = new URLSearchParams();
  for (const name of ["model", "psi", "at", ...SLOTS.map((slot) => slot.name)]) {
    if (state[name] !== null && state[name] !== "") kept.set(name, String(state[name]));
  }
  if (Object.keys(state.edits).length) kept.set("edits", textOf(state.edits));
  history.replaceState(null, "", `#${readable(kept)}`);
}
