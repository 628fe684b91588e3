"""The static page in a real browser: the same images as in Python, threads, no network, and every way to use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import BackendError
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.composition import Composition, composed_ws
from stylert.runtime.media.recipes import bundle_hash, read_recipe
from stylert.runtime.media.rendering import picture
from stylert.runtime.serving.named_bundle import NamedBundle
from stylert.runtime.steering.directions_file import read_directions
from stylert.runtime.web.site import write_site
from tests.chromium import BEYOND_THEIR_CARD, DRAWN, SCREENS, chromium, opened, wait_for, wait_for_source, with_gpu
from tests.runtime.serving.test_edits import directions_of

pytestmark = pytest.mark.slow

#: Fetches the picture of a path through the module that the page uses, as text of hexadecimal digits.
FETCH = """async ([path, options]) => {
  const { fetchPicture } = await import(new URL("page/transport.js", document.baseURI));
  const bytes = new Uint8Array(await (await fetchPicture(path, options)).arrayBuffer());
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""


class Files(SimpleHTTPRequestHandler):
    """A host of files that can send no header, and prints nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class SlowRuntime(Files):
    """A host that sends ONNX Runtime Web after all other files."""

    sent = threading.Event()

    def do_GET(self) -> None:
        is_late = self.path.endswith(".wasm")
        if is_late:
            time.sleep(1)
        try:
            super().do_GET()
        finally:
            if is_late:  # also where the page has broken off the download
                self.sent.set()


@contextmanager
def hosted(folder: Path, files: type[Files] = Files) -> Iterator[str]:
    """The address of a folder on a host of files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def hosts(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page in a folder below it, as on a host that has several pages."""
    hosts = tmp_path_factory.mktemp("hosts")
    try:
        file = directions_of(bundle, hosts / "d.safetensors")
        write_site([NamedBundle("small", bundle.path)], hosts / "cats", directions=[file])
    except BackendError as e:  # without npm or the network
        pytest.skip(str(e))
    return hosts


@pytest.fixture(scope="module")
def address(hosts: Path) -> Iterator[str]:
    with hosted(hosts) as url:
        yield f"{url}/cats/"


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address) as page:
        yield page


def pixels(page: Any, path: str, **options: Any) -> np.ndarray:
    """The image of a path, int64 `[H, W, C]`."""
    with Image.open(BytesIO(bytes.fromhex(page.evaluate(FETCH, [path, options])))) as picture:
        return np.asarray(picture).astype(np.int64)


def test_seeds_have_the_images_of_python(page: Any, bundle: Bundle, rng: np.random.Generator) -> None:
    seeds = [0, 2**32 - 1, *map(int, rng.integers(0, 2**32, 10))]
    with Generator.load(bundle, "onnxruntime", "fp32") as g:
        for seed, psi in zip(seeds, np.linspace(-1, 1.5, len(seeds)), strict=True):
            shown = pixels(page, f"v1/images/{seed}.png?model=small&psi={psi}")
            assert np.abs(shown - g([seed], float(psi))[0]).max() <= 1


def test_mixed_and_moved_images_are_those_of_python(page: Any, bundle: Bundle) -> None:
    latents, toward = (5, 5, 5, 9, 9, 9), 3
    with Generator.load(bundle, "onnxruntime", "fp32") as g:
        for at in (0.25, 1.0):
            ws = composed_ws(g, [Composition(latents, 0.7, None, None, toward, at)])
            expected = g.synthesize(ws)[0]
            path = f"v1/images/5.png?model=small&psi=0.7&mix=middle:9&toward={toward}&at={at}"
            assert np.abs(pixels(page, path) - expected).max() <= 1


def test_edits_have_the_images_and_the_recipe_of_python(
    browser: Any, address: str, hosts: Path, bundle: Bundle, tmp_path: Path
) -> None:
    directions = read_directions(hosts / "d.safetensors")
    with (
        opened(browser, address) as page,
        Generator.load(bundle, "onnxruntime", "fp32") as g,
    ):
        page.goto(f"{address}#base=5&edits=smile:1.5;pose.1:-2")
        page.reload()
        wait_for_source(page, '"moves":["smile=1.5","pose.1=-2"]')
        for mix, composition in (
            ("", Composition((5,) * 6, 0.7)),
            ("&mix=middle:9&toward=3&at=0.25", Composition((5, 5, 5, 9, 9, 9), 0.7, None, None, 3, 0.25)),
        ):
            ws = composed_ws(g, [composition])
            ws += np.float32(1.5) * directions["smile"].vector
            ws[:, :2] += np.float32(-2) * directions["pose.1"].vector
            path = f"v1/images/5.png?model=small&psi=0.7{mix}&edits=smile:1.5;pose.1:-2"
            assert np.abs(pixels(page, path) - g.synthesize(ws)[0]).max() <= 1
        page.locator("[data-direction='pose.1']").fill("1")
        wait_for_source(page, '"moves":["smile=1.5","pose.1=1"]')
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "edit.png")
        recipe = read_recipe(tmp_path / "edit.png")
        assert (recipe.command, recipe.seeds, recipe.directions) == ("edit", (5,), directions.sha256)
        with Image.open(tmp_path / "edit.png", formats=("PNG",)) as file:
            again = picture(g, recipe, directions=directions)
            assert np.abs(np.asarray(file).astype(int) - again).max() <= 1


def test_8_bits_differ_from_those_of_python_by_little(page: Any, bundle: Bundle) -> None:
    with Generator.load(bundle, "onnxruntime", "int8") as g:
        errors = [pixels(page, f"v1/images/{seed}.png?model=small.int8&psi=0.7") - g([seed], 0.7)[0] for seed in range(8)]
    assert np.sqrt(np.mean(np.square(errors))) < 255 / 10 ** (33 / 20)  # a PSNR above 33 dB


def test_webgpu_has_the_images_of_python(browser: Any, address: str, bundle: Bundle) -> None:
    with with_gpu(browser) as other, Generator.load(bundle, "onnxruntime", "fp32") as g, opened(other, address) as page:
        if page.locator("#model option[value='small.webgpu']").count() == 0:
            pytest.skip("needs a GPU in Chromium, such as SwiftShader")
        for seed in range(3):
            shown = pixels(page, f"v1/images/{seed}.png?model=small.webgpu&psi=0.7")
            assert np.abs(shown - g([seed], 0.7)[0]).max() <= 1


@pytest.mark.parametrize(("suffix", "limit"), [("png", 0), ("jpg", 8)])
def test_a_download_has_the_pixels_that_are_shown(page: Any, suffix: str, limit: float) -> None:
    path = f"v1/images/4.{suffix}?model=small&psi=0.7"
    # Means of the channels, since JPEG keeps a quarter of the colors.
    difference = pixels(page, path).mean(axis=2) - pixels(page, path, download=True).mean(axis=2)
    assert np.abs(difference).mean() <= limit
    assert pixels(page, f"{path}&size=32", download=True).shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_downloaded_file_holds_the_recipe_that_makes_it_again(page: Any, bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    page.keyboard.press("2")
    page.click("#grid .tile:nth-child(5)")
    wait_for_source(page, '"latents":"4,4,4,0,0,0"')
    page.select_option("#format", suffix)
    with page.expect_download() as download:
        page.click("#download")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    recipe = read_recipe(file)
    assert (recipe.command, recipe.latents, recipe.psi) == ("compose", (4, 4, 4, 0, 0, 0), (0.7,))
    assert (recipe.bundle, recipe.backend, recipe.precision) == (bundle_hash(bundle), "onnxruntime", "fp32")


@pytest.mark.parametrize(("processors", "threads"), [(2, 1), (4, 2), (64, 8)])
def test_a_small_network_has_threads_on_half_of_the_processors_on_a_host_that_sends_no_headers(
    browser: Any, address: str, bundle: Bundle, processors: int, threads: int
) -> None:
    with opened(browser, address, processors=processors) as page, Generator.load(bundle, "onnxruntime", "fp32") as g:
        assert page.evaluate("crossOriginIsolated")
        assert page.text_content("#backend") == f"WebAssembly, {threads} thread{'s' * (threads > 1)}"
        assert np.abs(pixels(page, "v1/images/3.png?model=small&psi=0.7") - g([3], 0.7)[0]).max() <= 1


def test_after_one_visit_the_page_needs_no_network(browser: Any, hosts: Path) -> None:
    context = browser.new_context()
    with hosted(hosts) as url:
        page = context.new_page()
        page.goto(f"{url}/cats/#psi=0.5")
        wait_for(page, DRAWN)
    page = context.new_page()  # the host is gone
    page.goto(f"{url}/cats/#base=8")
    wait_for_source(page, '"seeds":"8"')
    assert np.ptp(pixels(page, "v1/images/8.png?model=small")) > 0
    context.close()


def test_an_error_of_the_host_is_told_and_stays(browser: Any, hosts: Path) -> None:
    networks = hosts / "cats" / "models"
    networks.rename(hosts / "away")
    SlowRuntime.sent.clear()
    try:
        with hosted(hosts, SlowRuntime) as url:
            page = browser.new_context().new_page()
            page.goto(f"{url}/cats/")
            told = "document.querySelector('#message').textContent.includes('status 404')"
            wait_for(page, told)
            assert not page.is_visible("#picture"), "a picture that is on its way looks like a broken one"
            assert SlowRuntime.sent.wait(60)
            time.sleep(0.5)  # until it has reached the page
            wait_for(page, "document.querySelectorAll('img.stale').length === 0")
            assert page.evaluate(told)
            page.context.close()
    finally:
        (hosts / "away").rename(networks)


def test_every_control_works_without_a_server(page: Any) -> None:
    page.focus("#grid .tile:nth-child(1)")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    wait_for_source(page, '"seeds":"1"')
    page.drag_and_drop("#grid .tile:nth-child(8)", "#slots .slot:nth-child(5)")
    wait_for_source(page, '"toward":7,"at":0.5')
    page.focus("#picture")
    page.keyboard.press("ArrowLeft")
    wait_for_source(page, '"at":0.45')
    page.keyboard.press("c")
    page.click("#strip .tile:nth-child(1)")
    wait_for_source(page, '"psi":[0]')
    page.select_option("#model", "small.int8")
    wait_for_source(page, '"precision":"int8"')


@pytest.mark.parametrize("options", SCREENS.values(), ids=SCREENS)
def test_no_screen_scrolls_sideways(browser: Any, address: str, options: dict[str, Any]) -> None:
    with opened(browser, address, **options) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(BEYOND_THEIR_CARD) == []
