// Requests to the server: pictures, newest first, and the key that a server may ask for.

const KEY = "stylert-key";
const dialog = document.querySelector("#key-dialog");
let asking = null;

export async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    await askForKey();
    return request(path, options);
  }
  if (!answer.ok) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}

// Many requests may be refused at once; they share one dialog.
function askForKey() {
  asking ??= new Promise((resolve) => {
    dialog.showModal();
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.querySelector("#key").value);
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

// Shows pictures in an image element. A newer picture replaces one that is still on its way. While a picture is on its way, further
// ones wait, and only the last of them is asked for: so a slider never runs ahead of the server.
export class Picture {
  constructor(image, { onTime = () => {}, onError = () => {} } = {}) {
    Object.assign(this, { image, onTime, onError, running: false, wanted: null, shown: null });
  }

  async show(path) {
    if (path === (this.wanted ?? this.shown)) return;
    this.wanted = path;
    this.image.classList.add("stale");
    if (this.running) return;
    this.running = true;
    while (this.wanted !== null) {
      const next = this.wanted;
      try {
        const begin = performance.now();
        const blob = await (await request(next)).blob();
        this.onTime(performance.now() - begin);
        const old = this.image.src;
        this.image.src = URL.createObjectURL(blob);
        await this.image.decode().catch(() => {});
        if (old.startsWith("blob:")) URL.revokeObjectURL(old);
        this.shown = next;
        this.onError("");
      } catch (error) {
        this.onError(error.message);
      }
      if (this.wanted === next) this.wanted = null;
    }
    this.running = false;
    this.image.classList.remove("stale");
  }
}
