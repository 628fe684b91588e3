"""A real browser for the tests of pages. Tests that need it are skipped where it is missing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
#: What Chromium says when a page asks for a GPU on a machine without one.
NO_GPU = "No available adapters."
#: Whether the large picture is that of the choices.
DRAWN = "document.querySelector('#picture').naturalWidth > 0 && !document.querySelector('#picture').classList.contains('stale')"


#: The elements that reach beyond the card that they lie in. Small ones outside are for screen readers.
BEYOND_THEIR_CARD = """[...document.querySelectorAll("main section")].flatMap((card) => {
  const edge = card.getBoundingClientRect().right;
  const parts = [...card.querySelectorAll("*")].filter((part) => part.offsetWidth > 1);
  return parts.filter((part) => part.getBoundingClientRect().right > edge).map((part) => part.id || part.className);
})"""

#: A GPU in software, for WebGPU.
GPU_FLAGS = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
]


#: Options of small screens with touch, and of a dark one, by name.
SCREENS: dict[str, dict[str, Any]] = {
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
    "small phone": {"viewport": {"width": 320, "height": 568}, "is_mobile": True, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
}


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window, with a user folder of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def with_gpu(browser: Any) -> Iterator[Any]:
    """Another browser of this kind, with WebGPU."""
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"] + GPU_FLAGS
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    yield other
    other.close()


@contextmanager
def opened(browser: Any, url: str, processors: int | None = None, **options: Any) -> Iterator[Any]:
    """The page of an address with its first picture. A message of the console or a request to another address fails the test.

    Args:
        browser: The browser.
        url: The address.
        processors: How many processors the page sees; None for those of the machine.
        options: Of the context, such as the size of the screen.
    """
    context = browser.new_context(base_url=url, **options)
    if processors is not None:
        context.add_init_script(
            f"Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', {{ get: () => {processors} }})"
        )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: None if message.text == NO_GPU else problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((url, "blob:")) else problems.append(r.url))
    page.goto(url)
    wait_for(page, DRAWN)
    yield page
    context.close()
    assert problems == []


def wait_for(page: Any, expression: str) -> None:
    """Wait until an expression is true in the page, which may load once more meanwhile.

    Playwright's own way would need a weaker policy for scripts.
    """
    deadline = time.monotonic() + 60
    while not _is_true(page, expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


def _is_true(page: Any, expression: str) -> bool:
    from playwright.sync_api import Error

    try:
        return bool(page.evaluate(expression))
    except Error as e:
        if "because of a navigation" in str(e):
            return False
        raise


def wait_for_source(page: Any, part: str) -> None:
    """Wait until the text about the large picture has a part, and the picture is drawn."""
    wait_for(page, f"document.querySelector('#source').textContent.includes({part!r})")
    wait_for(page, DRAWN)
