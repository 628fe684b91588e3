// Shows pictures in an image element, newest first.

import { fetchPicture } from "./transport.js";

// A newer picture replaces one that is still on its way. While a picture is on its way, further ones wait, and only the last of them
// is asked for: so a slider never runs ahead of the network. The browser decodes a picture while the next one is made.
export class Picture {
  // Pictures of a lower `rank` come first, where the transport can choose.
  constructor(image, { onTime = () => {}, onError = () => {}, rank = 2 } = {}) {
    Object.assign(this, { image, onTime, onError, rank, running: false, wanted: null, shown: null });
  }

  async show(path) {
    if (path === (this.wanted ?? this.shown)) return;
    this.wanted = path;
    this.image.classList.add("stale");
    if (this.running) return;
    this.running = true;
    let drawn = Promise.resolve();
    while (this.wanted !== null) {
      const next = this.wanted;
      try {
        const begin = performance.now();
        const blob = await fetchPicture(next, { rank: this.rank });
        this.onTime(performance.now() - begin);
        await drawn;
        drawn = this.draw(blob, next);
        this.onError("");
      } catch (error) {
        this.onError(error.message);
      }
      if (this.wanted !== next) continue;
      await drawn;
      if (this.wanted === next) this.wanted = null;
    }
    this.running = false;
    this.image.classList.remove("stale");
  }

  // Shows a picture that is here already. It stays until the next call of `show`, even of the path before.
  async put(blob) {
    this.wanted = null;
    await this.draw(blob, null);
  }

  // Returns when the browser has decoded the picture.
  async draw(blob, path) {
    const old = this.image.src;
    this.image.src = URL.createObjectURL(blob);
    await this.image.decode().catch(() => {});
    if (old.startsWith("blob:")) URL.revokeObjectURL(old);
    this.shown = path;
  }
}
