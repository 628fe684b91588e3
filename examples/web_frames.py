"""Measures the frames per second of a page that `stylert web` wrote, in Chromium, while its slider moves from one image to another.

    pip install playwright        # and Chromium, from the system or by `playwright install chromium`
    python examples/web_frames.py site --seconds 10 --processors 2,4

A frame is a new picture on the page: latents, network, picture file, and its decoding by the browser. The number of processors that the
page sees decides its threads. Models and these numbers take turns. Beside the rate stands the median time of a picture until its file
reaches the page, as the page itself shows it.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from stylert.core.errors import BackendError, InputError, printable, shown
from stylert.core.machine.host import cpu_name
from stylert.core.programs.runner import run_program
from stylert.runtime.backends.base import reason

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
ROUNDS = 5
MAX_SECONDS, MAX_PROCESSORS = 3600, 1024
#: The processors that a page sees.
PROCESSORS = "Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', {{ get: () => {} }})"
#: Chooses a model, and waits until every picture of the page is there and the small ones have not begun anew.
CHOOSE = """async (name) => {
  const { change } = await import(new URL("page/state.js", document.baseURI));
  const select = document.querySelector("#model");
  select.value = name;
  select.dispatchEvent(new Event("change"));
  change({ toward: 1, at: 0.5 });
  for (let quiet = 0; quiet < 10; quiet++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    if (document.querySelector("img.stale")) quiet = 0;
  }
  return document.querySelector("#backend").textContent;
}"""
#: Moves the slider with each frame of the screen. Returns the pictures per second, and the page's own time of a picture.
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
  return [(1000 * pictures) / (performance.now() - begin), document.querySelector("#latency-median").textContent];
}"""


class Files(SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def new_page(browser: Any, url: str, processors: int | None) -> Any:
    """The page with its first picture, for a number of processors; None for those of the machine."""
    page = browser.new_context().new_page()
    if processors is not None:
        page.add_init_script(PROCESSORS.format(processors))
    page.goto(url)
    page.wait_for_selector("#picture[src]")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each model and number of processors, in five rounds")
    parser.add_argument(
        "--processors", help="numbers of processors that a page sees, such as 2,4; by default those of the machine"
    )
    options = parser.parse_args()
    options.processors = processors(options.processors)
    if not 0 < options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds is a number of more than 0, up to {MAX_SECONDS}")
    if not (options.site / "index.html").is_file():
        raise InputError(f"{options.site} is no page that `stylert web` wrote: it has no index.html")
    try:
        from playwright.sync_api import Error
    except ImportError:
        raise BackendError("this needs playwright: pip install playwright") from None
    try:
        measure(options)
    except Error as e:
        raise BackendError(f"Chromium cannot show the page: {reason(e)}") from None


def processors(text: str | None) -> list[int | None]:
    """The numbers of processors in a text such as `2,4`. None stands for those of the machine."""
    if text is None:
        return [None]
    numbers = [int(part) if re.fullmatch(r"[0-9]{1,9}", part) else 0 for part in text.split(",")]
    if not all(1 <= number <= MAX_PROCESSORS for number in numbers) or len(set(numbers)) < len(numbers):
        raise InputError(f"--processors are different numbers from 1 to {MAX_PROCESSORS}, such as 2,4, not {shown(text)}")
    return [*numbers]


def measure(options: argparse.Namespace) -> None:
    """Measure a page in Chromium, and print a line for each of its models and numbers of processors."""
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(options.site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backends: dict[tuple[str, int | None], str] = {}
    rates: dict[tuple[str, int | None], list[float]] = {}
    times: dict[tuple[str, int | None], str] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        pages = {
            processors: new_page(browser, f"http://127.0.0.1:{server.server_port}/", processors)
            for processors in options.processors
        }
        for _ in range(ROUNDS):
            for processors, page in pages.items():
                for name in page.eval_on_selector_all("#model option", "options => options.map((option) => option.value)"):
                    key = (name, processors)
                    backends[key] = page.evaluate(CHOOSE, name)
                    rate, times[key] = page.evaluate(DRAG, options.seconds / ROUNDS)
                    rates.setdefault(key, []).append(rate)
        print(printable(f"Chromium {browser.version}, {cpu_name()}"))
        browser.close()
    for key, values in rates.items():
        spread = f"{median(values):6.1f} frames/s ({min(values):.1f} to {max(values):.1f})"
        print(printable(f"{key[0]:20} {backends[key]:24} {spread}, a picture: {times[key]}"))


if __name__ == "__main__":
    run_program("web_frames", main)
