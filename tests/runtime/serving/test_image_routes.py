"""`/v1/images` makes the images of `Generator`, in every form that it offers, and refuses every mistake in one line."""

from __future__ import annotations

import base64
import email
import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from stylert.core.seeds import z_from_seeds
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.recipes import read_recipe
from stylert.runtime.media.rendering import picture
from stylert.runtime.style_levels import level_indices, mix_styles


@pytest.fixture(scope="module")
def generator(bundle: Bundle) -> Any:
    with Generator.load(bundle, threads=1) as g:
        yield g


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def assert_same(image: np.ndarray, expected: np.ndarray) -> None:
    """The same but for the last bit, which may depend on the batch."""
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1


def post(client: httpx.Client, accept: str = "*/*", **body: Any) -> httpx.Response:
    return client.post("/v1/images", json=body, headers={"accept": accept})


def zipped(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def test_one_seed_is_a_png_of_the_generators_image(client: httpx.Client, generator: Generator) -> None:
    answer = post(client, seeds=[7], psi=0.7, cutoff=3)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert_same(pixels(answer.content), generator([7], 0.7, 3)[0])


def test_several_seeds_are_a_zip_with_one_picture_each(client: httpx.Client, generator: Generator) -> None:
    answer = post(client, seeds="0-2,9", psi=0.5)
    assert answer.headers["content-type"] == "application/zip"
    files = zipped(answer.content)
    assert [name for name, _ in files] == ["0000-seed0.png", "0001-seed1.png", "0002-seed2.png", "0003-seed9.png"]
    for (_, data), expected in zip(files, generator([0, 1, 2, 9], 0.5), strict=True):
        assert_same(pixels(data), expected)


def test_json_and_parts_hold_the_same_pictures_as_the_zip(client: httpx.Client) -> None:
    expected = [pixels(data) for _, data in zipped(post(client, seeds=[3, 4, 5]).content)]
    document = post(client, "application/json", seeds=[3, 4, 5]).json()
    for entry, image in zip(document["images"], expected, strict=True):
        assert_same(pixels(base64.b64decode(entry["base64"])), image)
        assert entry["recipe"]["command"] == "generate"
    parts = post(client, "multipart/mixed", seeds=[3, 4, 5])
    message = email.message_from_bytes(b"Content-Type: " + parts.headers["content-type"].encode() + b"\r\n\r\n" + parts.content)
    found = message.get_payload()
    assert [part.get_filename() for part in found] == ["0000-seed3.png", "0001-seed4.png", "0002-seed5.png"]
    for part, image in zip(found, expected, strict=True):
        assert_same(pixels(part.get_payload(decode=True)), image)


def test_one_value_for_all_or_one_for_each(client: httpx.Client, generator: Generator) -> None:
    sweep = [pixels(data) for _, data in zipped(post(client, seeds=[5], psi=[0, 0.5, 1]).content)]
    for image, psi in zip(sweep, (0, 0.5, 1), strict=True):
        assert_same(image, generator([5], psi)[0])


def test_style_levels_come_from_other_seeds(client: httpx.Client, generator: Generator) -> None:
    ws = generator.map(z_from_seeds([1, 2], 24), 0.8)
    mixed = mix_styles(ws[0], ws[1:], level_indices("middle", 6))
    expected = generator.synthesize(mixed)[0]
    assert_same(pixels(post(client, seeds=[1], psi=0.8, mix={"middle": 2}).content), expected)
    assert_same(pixels(client.get("/v1/images/1.png?psi=0.8&mix=middle:2").content), expected)


def test_at_is_the_part_of_the_way_to_another_seed(client: httpx.Client, generator: Generator) -> None:
    ws = generator.map(z_from_seeds([1, 2], 24))
    answer = post(client, seeds=[1], toward=2, at=[0, 0.25, 1])
    for (_, data), t in zip(zipped(answer.content), (0, 0.25, 1), strict=True):
        assert_same(pixels(data), generator.synthesize((1 - np.float32(t)) * ws[:1] + np.float32(t) * ws[1:])[0])


def test_latents_are_images_too(client: httpx.Client, generator: Generator) -> None:
    ws = generator.map(z_from_seeds([8], 24))
    answer = post(client, ws=ws.tolist())
    assert_same(pixels(answer.content), generator.synthesize(ws)[0])


def test_the_precision_chooses_the_network(client: httpx.Client, bundle: Bundle) -> None:
    with Generator.load(bundle, precision="int8", threads=1) as g:
        expected = g([3])[0]
    for body in ({"precision": "int8"}, {"model": "small.int8"}, {"model": "small", "precision": "int8"}):
        image = pixels(post(client, seeds=[3], **body).content)
        assert np.sqrt(np.mean((image.astype(float) - expected) ** 2)) < 6  # bits of a batch may cross a boundary of rounding


@pytest.mark.parametrize(("name", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_pictures_carry_the_recipe_that_makes_them_again(
    client: httpx.Client, generator: Generator, tmp_path: Path, name: str, magic: bytes
) -> None:
    for body in ({"seeds": [4], "psi": 0.6}, {"seeds": [4], "psi": 0.6, "mix": {"coarse": 9}, "toward": 2, "at": 0.5}):
        answer = post(client, format=name, quality=100, **body)
        assert answer.content.startswith(magic)
        file = tmp_path / f"a.{name}"
        file.write_bytes(answer.content)
        again = picture(generator, read_recipe(file))
        error = np.abs(again.astype(int) - pixels(answer.content).astype(int))
        assert error.max() <= 1 if name == "png" else error.mean() < 12


def test_the_size_of_a_picture_may_differ_from_that_of_the_network(client: httpx.Client) -> None:
    assert pixels(post(client, seeds=[1], size=50).content).shape == (50, 50, 3)


def test_an_etag_names_the_request_and_saves_the_computation(client: httpx.Client) -> None:
    first = client.get("/v1/images/7.jpg?psi=0.7")
    tag = first.headers["etag"]
    assert first.headers["content-type"] == "image/jpeg"
    again = client.get("/v1/images/7.jpg?psi=0.7", headers={"if-none-match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for other in (
        "7.jpg",
        "7.jpg?psi=0.71",
        "8.jpg?psi=0.7",
        "7.png?psi=0.7",
        "7.jpg?psi=0.7&precision=int8",
        "7.jpg?psi=0.7&size=9",
    ):
        assert client.get(f"/v1/images/{other}", headers={"if-none-match": tag}).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid"),
        (b"[]", "Expected `object`"),
        (b"\xff", "not valid"),
        (b"[" * 100_000, "nested"),
        (b'{"seeds":[1],"seeds":[2]}', "twice"),
        (b'{"seeds":[]}', "0 values"),
        (b'{"seeds":"0-4000000000"}', "more than 64 seeds"),
        (b'{"seeds":[-1]}', "seeds"),
        (b'{"seeds":[1.5]}', "seeds"),
        (b'{"psi":NaN}', "not valid"),
        (b'{"psi":1e999}', "not valid"),
        (b'{"psi":1e9}', "psi"),
        (b'{"cutoff":7}', "cutoff"),
        (b'{"labels":0}', "no labels"),
        (b'{"labels":[[1e39]]}', "no labels"),
        (b'{"mix":{"huge":1}}', "levels are"),
        (b'{"mix":{"0-99":1}}', "latents are"),
        (b'{"seeds":[1,2],"psi":[1,1,1]}', "2 values for 3 images"),
        (b'{"ws":[[[1]]]}', "ws must have shape"),
        (b'{"ws":[[[1e39]]]}', "ws must have shape"),
        (b'{"ws":[[[1],[1,2]]]}', "different lengths"),
        (b'{"ws":[[[1]]],"psi":0.5}', "leave out psi"),
        (b'{"size":0}', "size"),
        (b'{"size":4096,"seeds":"0-9"}', "pixels"),
        (b'{"format":"gif"}', "format is one of"),
        (b'{"quality":0}', "quality"),
        (b'{"truncation":1}', "truncation"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # it would be a line of the log
def test_a_mistake_in_the_body_is_one_line_with_status_400(client: httpx.Client, body: bytes, message: str) -> None:
    answer = client.post("/v1/images", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, message in error, "\n" in error) == (400, True, False), answer.text


@pytest.mark.parametrize(
    "path",
    ["x.png", "-1.png", "1.gif", "99999999999.png", "1", ".png", "1.png?psi=nan", "1.png?psi=x", "1.png?x=1", "1.png?psi=1&psi=2",
     "1.png?psi=1_0", "1.png?psi=%D9%A3", "1.png?mix=fine", "1.png?mix=fine:x",
     "1.png?cutoff=1.5", f"1.png?psi={'9' * 5000}", "%00.png", "1.png?size=-1"],
)  # fmt: skip
def test_a_mistake_in_the_url_is_one_line_with_status_400(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/v1/images/{path}")
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("name", ["nope", "../small", "small.fp16", "/etc/passwd", "", "small.int8.x"])
def test_a_model_that_is_not_served_is_status_404(client: httpx.Client, name: str) -> None:
    answer = post(client, model=name)
    assert (answer.status_code, bool(answer.json()["error"])) == (404, True)


def test_a_client_that_takes_no_form_of_pictures_is_status_406(client: httpx.Client) -> None:
    assert post(client, "text/html", seeds=[1, 2]).status_code == 406
    assert client.delete("/v1/images").status_code == 405
    assert client.get("/v1/nothing").json() == {"error": "Not Found"}
