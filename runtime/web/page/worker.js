// Makes pictures beside the page, so that the page stays quick. It holds the networks of one model at a time.

import { Directions } from "./directions.js";
import { Latents } from "./latents.js";
import { loadNetworks } from "./networks.js";
import { pictureFile } from "./picture_files.js";

let current = { name: null };

// The page sends one order at a time, and the next one after the answer.
addEventListener("message", async ({ data }) => {
  try {
    postMessage({ blob: await picture(data) });
  } catch (error) {
    postMessage({ error: error.message ?? String(error) }); // ONNX Runtime also throws numbers
  }
});

async function picture({ model, order, file }) {
  if (current.name !== model.name) await load(model);
  const ws = await current.latents.of(order);
  await current.directions.move(ws, order.edits);
  const pixels = await current.networks.synthesize(ws);
  return pictureFile(pixels, model.resolution, model.channels, file);
}

async function load(model) {
  await current.networks?.release();
  current = { name: null };
  let isLoading = true; // a file that is still on its way after an error must not hide the error
  try {
    const networks = await loadNetworks(model, (loaded, total) => isLoading && postMessage({ loaded, total }));
    current = { name: model.name, networks, latents: new Latents(model, networks.map), directions: new Directions(model) };
  } finally {
    isLoading = false;
  }
}
