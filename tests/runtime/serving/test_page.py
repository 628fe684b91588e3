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
from tests.runtime.serving.test_edits import directions_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, server: ImageServer) -> Iterator[Any]:
    with opened(browser, server.url) as page:
        yield page


@pytest.fixture(scope="module")
def steered(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with directions."""
    file = directions_of(bundle, tmp_path_factory.mktemp("directions") / "d.safetensors")
    with running([source(bundle, "fp32", "int8")], [file]) as server:
        yield server.url


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


def test_each_direction_has_a_slider_that_moves_the_picture_and_a_double_click_resets_it(browser: Any, steered: str) -> None:
    with opened(browser, steered) as page:
        assert page.locator("#edits-rows span").all_text_contents() == ["smile", "pose.1"]
        first = page.evaluate("document.querySelector('#picture').src")
        smile, pose = page.locator("[data-direction=smile]"), page.locator("[data-direction='pose.1']")
        pose.fill("-2.5")
        smile.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        wait_for_source(page, "edits=smile:0.3;pose.1:-2.5")
        assert page.evaluate("document.querySelector('#picture').src") != first
        assert page.locator("#edits-rows output").all_text_contents() == ["+0.3", "\N{MINUS SIGN}2.5"]
        box = pose.bounding_box()
        page.mouse.dblclick(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
        wait_for(page, "document.querySelector('#source').textContent.includes(\"edits=smile:0.3'\")")
        smile.focus()
        page.keyboard.press("Delete")
        wait_for(page, "!document.querySelector('#source').textContent.includes('edits')")
        assert page.locator("#edits-reset").is_disabled()


def test_the_address_keeps_the_edits_and_a_button_resets_them(browser: Any, steered: str) -> None:
    with opened(browser, steered) as page:
        page.goto(f"{steered}/#base=4&edits=smile:99;nope:1;pose.1:x;:1")
        page.reload()
        wait_for_source(page, "edits=smile:5'")
        page.locator("[data-direction='pose.1']").fill("1.5")
        wait_for(page, "location.hash.endsWith('edits=smile:5;pose.1:1.5')")
        page.select_option("#model", "small.int8")
        wait_for_source(page, "model=small.int8&psi=0.7&edits=smile:5;pose.1:1.5'")
        page.click("#edits-reset")
        wait_for(page, "!location.hash.includes('edits')")
        wait_for(page, "!document.querySelector('#source').textContent.includes('edits')")


def test_seeds_are_shown_without_edits_and_other_truncations_with_them(browser: Any, steered: str) -> None:
    with opened(browser, steered) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.locator("[data-direction=smile]").fill("2")
        wait_for(page, "document.querySelectorAll('#strip img.stale').length === 0")
        page.click("#strip .tile:nth-child(2)")
        wait_for_source(page, "psi=0.25&edits=smile:2")
        page.click("#next")
        wait_for(page, "document.querySelectorAll('#grid img.stale').length === 0")
    pictures = [url for url in asked if "/v1/images/" in url]
    assert any("/24.jpg" in url for url in pictures)
    assert not [url for url in pictures if "edits" in url and "/0." not in url]
    sweep = {url.partition("psi=")[2].partition("&")[0] for url in pictures if "edits=smile:2" in url}
    assert {"0", "0.5", "1.25"} <= sweep


def test_many_directions_have_a_filter(browser: Any, bundle: Bundle, tmp_path: Path) -> None:
    names = tuple(f"d{i}" for i in range(60))
    file = directions_of(bundle, tmp_path / "many.safetensors", names)
    with running([source(bundle, "fp32")], [file]) as server, opened(browser, server.url) as page:
        assert page.locator("#edits-rows label").count() == 40
        assert page.text_content("#edits-rest") == "20 more: filter by name."
        page.locator("[data-direction=d3]").fill("1")
        page.fill("#edits-filter", "D57")
        assert page.locator("#edits-rows span").all_text_contents() == ["d3", "d57"]
        page.fill("#edits-filter", "x")
        assert page.text_content("#edits-rest") == "No direction has this name."


@pytest.mark.parametrize("options", SCREENS.values(), ids=SCREENS)
def test_the_sliders_of_directions_fit_every_screen(browser: Any, steered: str, options: dict[str, Any]) -> None:
    with opened(browser, steered, **options) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(BEYOND_THEIR_CARD) == []
        assert all(
            box["width"] >= 80 and box["height"] >= 24
            for box in (slider.bounding_box() for slider in page.locator("#edits-rows input").all())
        )
        if options.get("has_touch"):
            page.locator("[data-direction=smile]").tap()
            page.locator("[data-direction='pose.1']").tap(position={"x": 5, "y": 10})
            wait_for_source(page, "edits=pose.1:-")


def test_a_download_of_an_edit_holds_its_recipe(browser: Any, steered: str, tmp_path: Path) -> None:
    with opened(browser, steered) as page:
        page.locator("[data-direction=smile]").fill("2.5")
        wait_for_source(page, "edits=smile:2.5")
        with page.expect_download() as download:
            page.click("#download")
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
    assert (read_recipe(file).command, read_recipe(file).moves) == ("edit", ("smile=2.5",))


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
