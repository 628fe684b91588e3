#!/usr/bin/env python3
"""Make the picture of the page in docs/serving.md, from a running server, by Chromium.

pip install playwright        # and Chromium, from the system or by `playwright install chromium`
stylert serve cats=bundle --precision int8,fp32
python examples/page_picture.py http://127.0.0.1:8000 docs/serving.webp
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.errors import BackendError, InputError
from stylert.core.files.atomic import atomic_file
from stylert.core.programs.runner import run_program
from stylert.runtime.backends.base import reason
from stylert.runtime.media.pictures import check_own_picture, encoded_image

CHOICES = "#base=3&fine=12&toward=7&at=0.4&psi=0.7"
SIZE = {"width": 1280, "height": 900}
#: Every picture is there.
DRAWN = "document.querySelectorAll('#strip img[src]').length === 7 && !document.querySelector('img.stale')"
COMMENT = '{"AI-generated": true, "command": "examples/page_picture.py"}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("address")
    parser.add_argument("picture", type=Path, help="a file .webp")
    options = parser.parse_args()
    if options.picture.suffix != ".webp":
        raise InputError(f"the picture {options.picture} must end in .webp")
    check_own_picture(options.picture)
    with Image.open(io.BytesIO(screenshot(options.address)), formats=["PNG"]) as image:
        picture = encoded_image(np.asarray(image.convert("RGB")), ".webp", COMMENT)
    with atomic_file(options.picture) as temporary:
        temporary.write_bytes(picture)


def screenshot(address: str) -> bytes:
    """The page as a PNG file, after some use."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise BackendError("this needs playwright: pip install playwright") from None
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport=SIZE)
            page.goto(f"{address}/{CHOICES}")
            for key in ("ArrowLeft", "ArrowRight") * 10:  # times of a page in use
                page.wait_for_function(DRAWN)
                page.focus("#picture")
                page.keyboard.press(key)
            page.wait_for_function(DRAWN)
            page.evaluate("document.activeElement.blur()")
            page.wait_for_timeout(300)
            return page.screenshot()
    except Error as e:
        raise BackendError(f"Chromium cannot show the page at {address}: {reason(e)}") from None


if __name__ == "__main__":
    run_program("page_picture", main)
