// The vectors of a model's directions, in a worker.

export class Directions {
  constructor(model) {
    Object.assign(this, { model, vectors: null });
  }

  // Moves ws [num_ws, w_dim] by edits { strength, vector, latents }, in float32 as NumPy does.
  async move(ws, edits) {
    if (!edits.length) return;
    this.vectors ??= await this.load();
    const width = this.model.w_dim;
    for (const { strength, vector, latents } of edits) {
      const step = this.vectors.slice(vector * width, (vector + 1) * width).map((value) => value * Math.fround(strength));
      for (const latent of latents) {
        for (let i = 0; i < width; i++) ws[latent * width + i] += step[i];
      }
    }
  }

  async load() {
    const { path } = this.model.files.vectors;
    const answer = await fetch(new URL(`../${path}`, import.meta.url));
    if (!answer.ok) throw new Error(`${path} cannot be loaded: status ${answer.status}.`);
    return new Float32Array(await answer.arrayBuffer());
  }
}
