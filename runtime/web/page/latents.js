// Latents ws of a picture: each from a seed of its own, then a step towards another seed. The mapping network runs once per seed.

import { standardNormals } from "./random_state.js";

const KEPT = 512;

export class Latents {
  // `run` takes the inputs of the mapping network by name, as { data, dims }, and returns ws as Float32Array.
  constructor(model, run) {
    Object.assign(this, { model, run, mapped: new Map() });
  }

  // ws of an order { latents, psi, label, toward, at }: Float32Array [num_ws, w_dim].
  async of(order) {
    const seeds = [...new Set(order.toward === null ? order.latents : [...order.latents, order.toward])];
    const rows = await this.map(seeds, order.psi, order.label);
    const width = this.model.w_dim;
    const ws = new Float32Array(this.model.num_ws * width);
    const target = order.toward === null ? null : rows.get(order.toward);
    order.latents.forEach((seed, index) => {
      const own = rows.get(seed);
      for (let i = index * width; i < (index + 1) * width; i++) {
        ws[i] = target === null ? own[i] : (1 - order.at) * own[i] + order.at * target[i];
      }
    });
    return ws;
  }

  // ws of seeds, by seed. Those of the last seeds are kept.
  async map(seeds, psi, label) {
    const key = (seed) => `${seed} ${psi} ${label}`;
    const missing = seeds.filter((seed) => !this.mapped.has(key(seed)));
    if (missing.length) {
      const { z_dim, num_ws, w_dim, classes } = this.model;
      const z = new Float32Array(missing.length * z_dim);
      missing.forEach((seed, i) => z.set(standardNormals(seed, z_dim), i * z_dim));
      const inputs = { z: { data: z, dims: [missing.length, z_dim] } };
      inputs.psi = { data: new Float32Array(missing.length * num_ws).fill(psi), dims: [missing.length, num_ws] };
      if (classes) {
        const c = new Float32Array(missing.length * classes);
        for (let i = 0; i < missing.length; i++) c[i * classes + label] = 1;
        inputs.c = { data: c, dims: [missing.length, classes] };
      }
      const ws = await this.run(inputs);
      missing.forEach((seed, i) => this.mapped.set(key(seed), ws.slice(i * num_ws * w_dim, (i + 1) * num_ws * w_dim)));
    }
    const rows = new Map(seeds.map((seed) => [seed, this.mapped.get(key(seed))]));
    for (const old of [...this.mapped.keys()].slice(0, Math.max(0, this.mapped.size - KEPT))) this.mapped.delete(old);
    return rows;
  }
}
