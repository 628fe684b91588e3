// Keeps the files of the page for use without a network, and adds headers that the host may not send: see isolation.js.
// A new version waits until every tab of the old one is closed, so that a page never gets files of two versions.

importScripts("site_version.js"); // VERSION, HEADERS, FILES, FIRST_FILES

const CACHE = `${registration.scope} ${VERSION}`;
const known = new Set(FILES.map((name) => new URL(name, registration.scope).href));

addEventListener("install", (event) => event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FIRST_FILES))));

addEventListener("activate", (event) => event.waitUntil(takeOver()));

addEventListener("fetch", (event) => {
  const { origin, pathname } = new URL(event.request.url);
  if (event.request.method === "GET" && known.has(origin + pathname)) event.respondWith(answer(event, origin + pathname));
});

async function takeOver() {
  const old = (await caches.keys()).filter((name) => name.startsWith(`${registration.scope} `) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await clients.claim();
}

async function answer(event, address) {
  const cache = await caches.open(CACHE);
  let response = await cache.match(address);
  if (!response) {
    response = await fetch(address);
    if (response.status === 200) event.waitUntil(cache.put(address, response.clone()));
  }
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
