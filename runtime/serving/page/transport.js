// The way to a server that makes the pictures. The static page of `stylert web` has another module of this name, with the same exports.

const KEY = "stylert-key";
const dialog = document.createElement("dialog");
let asking = null;

// Formats of a download, by suffix.
export const FORMATS = { png: "PNG", jpg: "JPEG", webp: "WebP" };
// Title above the text of `sourceOf`.
export const SOURCE_TITLE = "The request";

// The models that make pictures: name, resolution, precision, backend, classes, the latents of each style level, and the number of
// directions.
export async function fetchModels() {
  return (await (await request("v1/models")).json()).models;
}

// The directions of a model: name, space, latents, method.
export async function fetchDirections(model) {
  return (await (await request(`v1/models/${model.name}/directions`)).json()).directions;
}

// The picture file of a path such as `v1/images/5.png?psi=0.7`, as a Blob.
export async function fetchPicture(path) {
  return (await request(path)).blob();
}

// Drags a picture. `body` and the answer are those of `POST /v1/drag`.
export async function dragPicture(body) {
  return (await request("v1/drag", body)).json();
}

// The picture file of latents, as a Blob. `body` is that of `POST /v1/images`.
export async function pictureOfLatents(body) {
  return (await request("v1/images", body)).blob();
}

// A text from which a person can make the picture of a path elsewhere.
export function sourceOf(path, fileName) {
  return `curl '${new URL(path, document.baseURI)}' -o ${fileName}`;
}

async function request(path, body = null) {
  const key = sessionStorage.getItem(KEY);
  const posted = body === null ? {} : { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(path, { headers: key ? { "X-API-Key": key } : {}, ...posted });
  if (answer.status === 401) {
    await askForKey();
    return request(path, body);
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
      sessionStorage.setItem(KEY, dialog.querySelector("#key").value);
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

dialog.innerHTML = `<form method="dialog">
  <h2>This server needs a key</h2>
  <input class="visually-hidden" autocomplete="username" value="stylert" tabindex="-1" aria-hidden="true" readonly>
  <label>API key <input id="key" type="password" autocomplete="current-password" required></label>
  <p class="note">It stays in this tab.</p>
  <button class="primary">Continue</button>
</form>`;
document.body.append(dialog);
document.querySelector("nav").insertAdjacentHTML("afterbegin", '<a href="docs">API</a>');
