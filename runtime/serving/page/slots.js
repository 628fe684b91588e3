// The slots that seeds are put into: the seed itself, its style levels, and the seed that the picture moves to.

import { MAX_SEED, ONE_SEED, SLOTS, change, path, query, state, subscribe } from "./state.js";
import { Picture } from "./picture.js";

const group = document.querySelector("#slots");
const parts = {};

export function startSlots(thumbnail) {
  for (const slot of SLOTS) {
    const button = document.createElement("div");
    button.className = "slot";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `${slot.title}, key ${slot.number}`);
    const image = document.createElement("img");
    image.alt = "";
    const empty = document.createElement("div");
    empty.className = "empty";
    empty.textContent = "+";
    const caption = document.createElement("div");
    button.append(image, empty, caption);
    button.addEventListener("click", () => change({ active: slot.name }));
    button.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        change({ active: slot.name });
      }
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) {
        event.preventDefault();
        const next = SLOTS[(slot.number - 1 + by + SLOTS.length) % SLOTS.length].name;
        change({ active: next });
        parts[next].button.focus();
      }
      if ((event.key === "Delete" || event.key === "Backspace") && slot.name !== "base") change({ [slot.name]: null });
    });
    acceptDrops(button, slot.name);
    if (slot.name !== "base") button.append(removeButton(slot));
    group.append(button);
    parts[slot.name] = { button, image, empty, caption, picture: new Picture(image, { rank: 1 }), remove: button.querySelector(".remove") };
  }
  subscribe(() => draw(thumbnail));
  draw(thumbnail);
}

function removeButton(slot) {
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "remove";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Empty ${slot.title}`);
  remove.addEventListener("click", (event) => {
    event.stopPropagation();
    change({ [slot.name]: null });
  });
  return remove;
}

function acceptDrops(element, name) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    const seed = Number(event.dataTransfer.getData("text/plain"));
    if (!Number.isInteger(seed) || seed < 0 || seed > MAX_SEED) return;
    change({ [name]: seed, active: name, ...(name === "toward" && state.at === 0 ? { at: 0.5 } : {}) });
  });
}

function draw(thumbnail) {
  for (const { name, title } of SLOTS) {
    const { button, image, empty, caption, picture, remove } = parts[name];
    const seed = state[name];
    button.setAttribute("aria-checked", String(state.active === name));
    button.tabIndex = state.active === name ? 0 : -1;
    image.hidden = seed === null;
    empty.hidden = seed !== null;
    if (remove) remove.hidden = seed === null;
    caption.textContent = seed === null ? title : `${title} ${seed}`;
    if (seed !== null) picture.show(path("jpg", thumbnail(query(ONE_SEED)), seed));
  }
}
