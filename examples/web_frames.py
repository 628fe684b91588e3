"""Measures the frames per second of a page that `stylert web` wrote, in Chromium, while its slider moves from one image to another.

    pip install playwright        # and Chromium, from the system or by `playwright install chromium`
    python examples/web_frames.py site --seconds 3

A frame is a new picture on the page: latents, network, picture file, and its decoding by the browser. Models alternate.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from stylert.core.machine.host import cpu_name

FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
ROUNDS = 3
#: Chooses a model and waits for its first picture.
CHOOSE = """async (name) => {
  const { change } = await import(new URL("page/state.js", document.baseURI));
  const { fetchPicture } = await import(new URL("page/transport.js", document.baseURI));
  const select = document.querySelector("#model");
  select.value = name;
  select.dispatchEvent(new Event("change"));
  change({ toward: 1, at: 0.5 });
  await fetchPicture(`v1/images/0.png?model=${name}`);
  return document.querySelector("#backend").textContent;
}"""
#: Moves the slider with each frame of the screen. Returns the pictures per second.
DRAG = """async (seconds) => {
  const { change } = await import(new URL("page/state.js", document.baseURI));
  let pictures = 0;
  const observer = new MutationObserver((changes) => (pictures += changes.length));
  observer.observe(document.querySelector("#picture"), { attributeFilter: ["src"] });
  const begin = performance.now();
  for (let i = 0; performance.now() - begin < 1000 * seconds; i++) {
    change({ at: (1 + (i % 100)) / 100 });
    await new Promise(requestAnimationFrame);
  }
  observer.disconnect();
  return (1000 * pictures) / (performance.now() - begin);
}"""


class Files(SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each model, in three rounds")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(options.site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("#picture[src]")
        names = page.eval_on_selector_all("#model option", "options => options.map((option) => option.value)")
        backends: dict[str, str] = {}
        rates: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            for name in names:
                backends[name] = page.evaluate(CHOOSE, name)
                rates[name].append(page.evaluate(DRAG, options.seconds / ROUNDS))
        print(f"Chromium {browser.version}, {cpu_name()}")
        browser.close()
    for name, values in rates.items():
        print(f"{name:20} {backends[name]:24} {median(values):6.1f} frames/s ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
