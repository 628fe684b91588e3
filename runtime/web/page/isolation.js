// Threads of WebAssembly need a page that is isolated from other origins, by two headers. Most hosts of static files cannot send
// them. So a service worker adds them, and keeps the files for use without a network.

const TRIED = "stylert-isolated";
const MOST_MILLISECONDS = 3000;

// Returns when the page is as isolated as it can be. It may load the page once more.
export async function isolate() {
  if (!("serviceWorker" in navigator)) return; // an address without encryption, or a private window
  try {
    await navigator.serviceWorker.register("service_worker.js");
    await Promise.race([controlled(), new Promise((resolve) => setTimeout(resolve, MOST_MILLISECONDS))]);
  } catch {
    return;
  }
  if (crossOriginIsolated) return sessionStorage.removeItem(TRIED);
  if (sessionStorage.getItem(TRIED)) return;
  sessionStorage.setItem(TRIED, "yes");
  location.reload();
  await new Promise(() => {}); // the new page goes on
}

function controlled() {
  if (navigator.serviceWorker.controller) return null;
  return new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
}
