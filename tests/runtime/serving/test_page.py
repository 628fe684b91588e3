"""The page works in a real browser: by mouse, keyboard and touch, in light and dark, and without any other server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stylert.runtime import Bundle
from stylert.runtime.media.recipes import read_recipe
from stylert.runtime.serving.server import ImageServer
from tests.chromium import BEYOND_THEIR_CARD, DRAWN, SCREENS, chromium, opened, wait_for, wait_for_source
from tests.runtime.serving.conftest import running, source

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, server: ImageServer) -> Iterator[Any]:
    with opened(browser, server.url) as page:
        yield page


def test_a_click_chooses_the_seed_and_keys_choose_the_slot(page: Any) -> None:
    page.click("#grid .tile:nth-child(6)")
    wait_for_source(page, "/v1/images/5.png")
    page.keyboard.press("3")
    page.click("#grid .tile:nth-child(3)")
    wait_for_source(page, "mix=middle:2")
    page.keyboard.press("c")
    wait_for(page, "!document.querySelector('#source').textContent.includes('mix')")


def test_seeds_are_chosen_by_keyboard_alone(page: Any) -> None:
    page.focus("#grid .tile:nth-child(1)")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    wait_for_source(page, "/v1/images/1.png")


def test_a_seed_is_dragged_into_a_slot_and_the_picture_is_dragged_towards_it(page: Any) -> None:
    page.drag_and_drop("#grid .tile:nth-child(8)", "#slots .slot:nth-child(5)")
    wait_for_source(page, "toward=7&at=0.5")
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 50, steps=4)
    page.mouse.up()
    wait_for_source(page, "at=0.8")
    page.focus("#picture")
    page.keyboard.press("ArrowLeft")
    wait_for_source(page, "at=0.75")


def test_the_sweep_sets_psi_and_a_link_keeps_everything(page: Any, server: ImageServer) -> None:
    page.click("#strip .tile:nth-child(6)")
    wait_for_source(page, "psi=1")
    page.goto(f"{server.url}/#base=9&coarse=4&psi=0.3&toward=x&middle=-5")
    page.reload()
    wait_for_source(page, "/v1/images/9.png?model=small&psi=0.3&mix=coarse:4")


def test_a_slider_changes_the_address_no_oftener_than_browsers_allow(page: Any) -> None:
    page.click("#grid .tile:nth-child(1)")
    moved = """() => {
      window.changes = 0;
      const replace = history.replaceState.bind(history);
      history.replaceState = (...values) => (window.changes++, replace(...values));
      const slider = document.querySelector("#psi");
      for (let i = 0; i < 300; i++) {
        slider.value = i % 2 ? 0.25 : 0.5;
        slider.dispatchEvent(new Event("input"));
      }
      return window.changes;
    }"""
    assert page.evaluate(moved) <= 1
    wait_for(page, "location.hash.includes('psi=0.25')")
    assert page.evaluate("window.changes") <= 2


def test_a_download_holds_the_recipe(page: Any, bundle: Bundle, tmp_path: Path) -> None:
    page.keyboard.press("2")
    page.click("#grid .tile:nth-child(5)")
    wait_for_source(page, "mix=coarse:4")
    with page.expect_download() as download:
        page.click("#download")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    recipe = read_recipe(file)
    assert (recipe.command, recipe.latents, recipe.psi) == ("compose", (4, 4, 4, 0, 0, 0), (0.7,))


@pytest.mark.parametrize("options", SCREENS.values(), ids=SCREENS)
def test_no_screen_scrolls_sideways_and_dark_is_dark(browser: Any, server: ImageServer, options: dict[str, Any]) -> None:
    with opened(browser, server.url, **options) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(BEYOND_THEIR_CARD) == []
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = sum(int(n) for n in color.removeprefix("rgb(").rstrip(")").split(",")) < 200
        assert is_dark == (options.get("color_scheme") == "dark")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != color


def test_the_page_of_the_api_lists_the_routes(page: Any) -> None:
    page.goto("/docs")
    page.wait_for_selector("text='GET /v1/images/{name}'")
    assert page.locator("text=Truncation: 1 is none").count() == 1


def test_a_server_with_a_key_asks_for_it_once(browser: Any, bundle: Bundle) -> None:
    with running([source(bundle)], api_key="a long secret") as server:
        page = browser.new_context().new_page()
        page.goto(server.url)
        page.fill("#key", "a long secret")
        page.keyboard.press("Enter")
        wait_for(page, DRAWN)
        page.context.close()
