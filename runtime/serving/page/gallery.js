// The grid of seeds and the strip of truncations.

import { MAX_SEED, ONE_SEED, change, path, query, state, subscribe } from "./state.js";
import { Picture } from "./picture.js";

const COUNT = 24;
const SWEEP = [0, 0.25, 0.5, 0.7, 0.85, 1, 1.25];
const grid = document.querySelector("#grid");
const strip = document.querySelector("#strip");
const first = document.querySelector("#first");
const tiles = [];
const steps = [];

export function startGallery(thumbnail) {
  for (let i = 0; i < COUNT; i++) tiles.push(newTile(grid, () => choose(firstSeed() + i)));
  for (const psi of SWEEP) steps.push(newTile(strip, () => change({ psi }), psi));
  grid.addEventListener("keydown", moveFocus);
  first.addEventListener("change", () => draw(thumbnail));
  document.querySelector("#previous").addEventListener("click", () => turn(-COUNT, thumbnail));
  document.querySelector("#next").addEventListener("click", () => turn(COUNT, thumbnail));
  subscribe((changes) => later(() => draw(thumbnail), ["psi", "at", "edits"].some((name) => name in changes) ? 150 : 0));
  draw(thumbnail);
}

function choose(seed) {
  change({ [state.active]: seed, ...(state.active === "toward" && state.at === 0 ? { at: 0.5 } : {}) });
}

const firstSeed = () => Math.min(Math.max(0, Math.floor(Number(first.value)) || 0), MAX_SEED - COUNT);

function turn(by, thumbnail) {
  first.value = Math.min(Math.max(0, firstSeed() + by), MAX_SEED - COUNT);
  draw(thumbnail);
}

function newTile(parent, onClick, psi = null) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tile";
  const image = document.createElement("img");
  image.alt = "";
  image.draggable = false;
  const caption = document.createElement("span");
  button.append(image, caption);
  button.addEventListener("click", onClick);
  parent.append(button);
  return { button, caption, psi, picture: new Picture(image) };
}

function draw(thumbnail) {
  tiles.forEach((tile, i) => {
    const seed = firstSeed() + i;
    tile.caption.textContent = seed;
    tile.button.setAttribute("role", "option");
    tile.button.setAttribute("aria-label", `Seed ${seed}`);
    tile.button.setAttribute("aria-selected", String(state[state.active] === seed));
    tile.button.draggable = true;
    tile.button.ondragstart = (event) => event.dataTransfer.setData("text/plain", String(seed));
    tile.picture.show(path("jpg", thumbnail(query(ONE_SEED)), seed));
  });
  for (const step of steps) {
    step.caption.textContent = step.psi;
    step.button.setAttribute("aria-label", `psi ${step.psi}`);
    step.button.setAttribute("aria-selected", String(state.psi === step.psi));
    step.picture.show(path("jpg", thumbnail(query({ psi: step.psi }))));
  }
}

function moveFocus(event) {
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const target = tiles[tiles.findIndex((tile) => tile.button === document.activeElement) + by];
  if (by === undefined || target === undefined) return;
  event.preventDefault();
  target.button.focus();
}

let timer = 0;
function later(action, milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(action, milliseconds);
}
