"""Handles are pulled on the page in a real browser: by mouse, keyboard and touch, with a mask, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from stylert.export.pipeline import export_bundle
from stylert.runtime.serving.model_store import BundleSource
from tests.chromium import BEYOND_THEIR_CARD, SCREENS, chromium, opened, wait_for, wait_for_source
from tests.runtime.serving.conftest import running
from tests.runtime.serving.test_drag import new_dragger

pytestmark = pytest.mark.slow

CATS = Path(__file__).parents[3] / "examples" / "cats64.safetensors"
REPORTED = "/steps in/.test(document.querySelector('#drag-report').textContent)"
#: The tools lie below the picture, and a click on one may scroll it away.
SHOW_PICTURE = "document.querySelector('#handles').scrollIntoView({ block: 'center' })"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the cats, which drags them in few steps."""
    bundle = export_bundle(CATS, tmp_path_factory.mktemp("cats") / "bundle", precisions=("fp32",))
    with running(
        [BundleSource("cats64", bundle.path, ("fp32",), "onnxruntime", 1)], dragger=new_dragger(CATS, steps=4)
    ) as server:
        yield server.url


def pull(page: Any, start: tuple[int, int], target: tuple[int, int]) -> None:
    """Pull from a pixel of the image to another by mouse."""
    page.evaluate(SHOW_PICTURE)
    (x, y), (target_x, target_y) = (place(page, *point) for point in (start, target))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(target_x, target_y, steps=3)
    page.mouse.up()


def place(page: Any, x: int, y: int) -> tuple[float, float]:
    box = page.locator("#handles").bounding_box()
    return box["x"] + (x + 0.5) * box["width"] / 64, box["y"] + (y + 0.5) * box["height"] / 64


def fields(page: Any) -> list[list[str]]:
    return [[box.input_value() for box in row.locator("input").all()] for row in page.locator("#drag-list fieldset").all()]


def test_a_handle_is_pulled_the_picture_follows_and_undo_brings_it_back(browser: Any, cats: str, tmp_path: Path) -> None:
    with opened(browser, cats) as page:
        page.goto(f"{cats}/#base=8&psi=0.7")
        page.reload()
        wait_for_source(page, "/v1/images/8.png")
        first = page.evaluate("document.querySelector('#picture').src")
        page.keyboard.press("h")
        assert page.locator("#drag-run").is_disabled()
        pull(page, (54, 4), (54, 12))
        assert fields(page) == [["54", "4", "54", "12"]]
        page.click("#drag-run")
        wait_for(page, REPORTED)
        assert "4 steps in" in page.text_content("#drag-report")
        assert page.evaluate("document.querySelector('#picture').src") != first
        assert "was dragged" in page.text_content("#source")
        assert fields(page)[0][2:] == ["54", "12"]  # it has not arrived, and goes on from where it is
        page.select_option("#size", "128")
        with page.expect_download() as download:
            page.click("#download")
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert (file.name, Image.open(file, formats=["PNG"]).size) == ("cats64-seed8-dragged.png", (128, 128))
        page.evaluate("document.querySelector('#drag-report').textContent = ''")
        page.click("#drag-run")  # on, from the new latents
        wait_for(page, REPORTED)
        page.click("#drag-undo")
        assert "was dragged" in page.text_content("#source")
        page.keyboard.press("z")
        wait_for_source(page, "/v1/images/8.png")
        assert page.locator("#drag-undo").is_disabled()


def test_other_choices_leave_the_dragged_picture(browser: Any, cats: str) -> None:
    with opened(browser, cats) as page:
        page.keyboard.press("h")
        pull(page, (30, 30), (34, 30))
        page.click("#drag-run")
        wait_for(page, REPORTED)
        page.locator("#psi").fill("0.5")
        wait_for_source(page, "psi=0.5")
        assert page.locator("#drag-undo").is_disabled()
        assert page.text_content("#drag-report") == ""


def test_a_painted_mask_is_sent_and_its_effect_is_told(browser: Any, cats: str) -> None:
    with opened(browser, cats) as page:
        bodies: list[Any] = []
        page.on("request", lambda request: bodies.append(request.post_data_json) if "/v1/drag" in request.url else None)
        page.click("#drag-mode")
        page.click("#drag-brush")
        pull(page, (40, 8), (56, 12))
        assert fields(page) == []
        page.click("#drag-handle")
        pull(page, (54, 4), (54, 9))
        page.click("#drag-run")
        wait_for(page, REPORTED)
        assert "Outside of the mask" in page.text_content("#drag-report")
        page.click("#drag-clear")
        pull(page, (54, 4), (54, 9))
        page.click("#drag-run")
        wait_for(page, "!document.querySelector('#drag-report').textContent.includes('Outside') && " + REPORTED)
    assert ["mask" in body for body in bodies] == [True, False]
    assert bodies[0]["handles"] == [[54, 4, 54, 9]]


def test_handles_are_set_by_keyboard_alone_and_by_two_clicks(browser: Any, cats: str) -> None:
    with opened(browser, cats) as page:
        page.keyboard.press("h")
        page.focus("#drag-add")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Handle 1: x"
        page.keyboard.type("20")
        page.keyboard.press("Tab")
        page.keyboard.type("30")
        row = fields(page)[0]
        assert row[:2] == ["20", "30"]
        page.evaluate(SHOW_PICTURE)
        for point in ((10, 12), (14, 18)):
            page.mouse.click(*place(page, *point))
        assert fields(page)[1] == ["10", "12", "14", "18"]
        page.locator("[aria-label='Remove handle 1']").press("Enter")
        assert fields(page) == [["10", "12", "14", "18"]]


def test_a_refusal_is_shown_and_the_handles_stay(browser: Any, cats: str) -> None:
    with opened(browser, cats) as page:
        page.keyboard.press("h")
        pull(page, (10, 12), (14, 18))
        page.route("**/v1/drag", lambda route: route.fulfill(status=200, json={}))  # an answer without a picture
        page.click("#drag-run")
        wait_for(page, "document.querySelector('#drag-run').textContent === 'Run the drag'")
        assert page.text_content("#drag-report") not in ("", "The latents move …")
        assert fields(page) == [["10", "12", "14", "18"]]


@pytest.mark.parametrize("options", SCREENS.values(), ids=SCREENS)
def test_drags_fit_every_screen_and_a_finger_pulls_as_well(browser: Any, cats: str, options: dict[str, Any]) -> None:
    with opened(browser, cats, **options) as page:
        page.click("#drag-mode")
        page.click("#drag-add")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(BEYOND_THEIR_CARD) == []
        if options.get("has_touch"):
            page.click("#drag-clear")
            page.evaluate(SHOW_PICTURE)
            for point in ((20, 12), (30, 18)):
                page.touchscreen.tap(*place(page, *point))
            assert fields(page) == [["20", "12", "30", "18"]]


def test_a_server_without_drags_shows_nothing_of_them(browser: Any, server: Any) -> None:
    with opened(browser, server.url) as page:
        page.keyboard.press("h")
        assert page.locator("#drag").is_hidden()
        assert page.locator("#handles").is_hidden()
    assert httpx.get(f"{server.url}/page/drag.js").status_code == 200
