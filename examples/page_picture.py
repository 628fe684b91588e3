#!/usr/bin/env python3
"""Make the picture of the page in docs/serving.md, from a running server, by Chromium.

pip install playwright        # and Chromium, from the system or by `playwright install chromium`
stylert serve cats=bundle --precision int8,fp32
python examples/page_picture.py http://127.0.0.1:8000 docs/serving.webp
"""

from __future__ import annotations

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

CHOICES = "#base=3&fine=12&toward=7&at=0.4&psi=0.7"
SIZE = {"width": 1280, "height": 900}
#: Every picture is there.
DRAWN = "document.querySelectorAll('#strip img[src]').length === 7 && !document.querySelector('img.stale')"


def main() -> None:
    address, picture = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)
        page.goto(f"{address}/{CHOICES}")
        for key in ("ArrowLeft", "ArrowRight") * 10:  # times of a page in use
            while not page.evaluate(DRAWN):
                page.wait_for_timeout(100)
            page.focus("#picture")
            page.keyboard.press(key)
        while not page.evaluate(DRAWN):
            page.wait_for_timeout(100)
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(300)
        Image.open(io.BytesIO(page.screenshot()), formats=["PNG"]).convert("RGB").save(picture, quality=90, method=6)
        browser.close()


if __name__ == "__main__":
    main()
