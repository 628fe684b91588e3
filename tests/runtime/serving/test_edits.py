"""Edits in requests are the moves of `stylert edit`: the same bytes, a recipe that makes them again, and mistakes in one line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stylert.cli import main as cli
from stylert.core.errors import StylertError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.recipes import read_recipe
from stylert.runtime.serving.image_request import MAX_EDITS
from stylert.runtime.serving.server import ImageServer
from stylert.runtime.serving.settings import ServerSettings
from stylert.runtime.steering.directions_file import Direction, Directions, read_directions, write_directions
from tests.draws import fresh
from tests.runtime.serving.conftest import running, source
from tests.runtime.serving.test_image_routes import assert_same, pixels, post, zipped

KEY = "correct horse battery"


def directions_of(bundle: Bundle, file: Path, names: tuple[str, ...] = ("smile", "pose.1", "style")) -> Path:
    """Write random directions of a bundle's network: of all latents, of the first two, of styles, and by any other name of w."""
    rng, w_dim = fresh(), bundle.model["w_dim"]
    styles = bundle.style_channels or 7

    def direction(name: str) -> Direction:
        if name == "style":
            return Direction("styles", rng.standard_normal(styles).astype(np.float32))
        vector = rng.standard_normal(w_dim).astype(np.float32)
        if name == "pose.1":
            return Direction("w", vector, (0, 1), "PCA")
        return Direction("w", vector, tuple(range(bundle.num_ws)), "scores", {"share": 0.5})

    network = bundle.provenance["checkpoint_sha256"]
    write_directions(file, Directions(network, bundle.num_ws, w_dim, styles, {name: direction(name) for name in names}))
    return file


@pytest.fixture(scope="module")
def steerable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the input for styles, whose directions lie beside it as `d.safetensors`."""
    bundle = export_bundle(checkpoint, tmp_path_factory.mktemp("export") / "bundle", ["fp32", "int8"], style_offsets=True)
    directions_of(bundle, bundle.path.parent / "d.safetensors")
    return bundle


@pytest.fixture(scope="module")
def file(steerable: Bundle) -> Path:
    return steerable.path.parent / "d.safetensors"


@pytest.fixture(scope="module")
def one_by_one(steerable: Bundle, file: Path) -> Iterator[httpx.Client]:
    """A server whose batches have one image, so that the bits of an image depend on nothing else."""
    with (
        running([source(steerable, "fp32", "int8")], [file], max_batch=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(steerable: Bundle, file: Path) -> Iterator[httpx.Client]:
    """A server with batches."""
    with (
        running([source(steerable, "fp32")], [file], max_delay_ms=20) as server,
        httpx.Client(base_url=server.url, timeout=60) as c,
    ):
        yield c


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command in this process. Returns its exit code and what it prints on stderr."""

    def call(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stylert", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capfd.readouterr().err

    return call


def assert_same_picture(file: Path, other: Path) -> None:
    """The same pixels and the same recipe. The compression of the files may differ."""
    np.testing.assert_array_equal(pixels(file.read_bytes()), pixels(other.read_bytes()))
    assert read_recipe(file) == read_recipe(other)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_edit_has_the_bytes_of_the_command_and_again_makes_the_file_once_more(
    one_by_one: httpx.Client, steerable: Bundle, file: Path, tmp_path: Path, run: Callable[..., tuple[int, str]], precision: str
) -> None:
    edits = {"smile": 1.25, "pose.1@3-4": -0.1, "style": 2}
    answer = post(one_by_one, seeds=[5], psi=0.7, edits=edits, precision=precision)
    assert answer.status_code == 200, answer.text
    (tmp_path / "served.png").write_bytes(answer.content)
    moves = [option for name, strength in edits.items() for option in ("--direction", f"{name}={strength}")]
    common = ["--directions", file, "--seeds", 5, "--psi", 0.7, "--precision", precision, "--threads", 1]
    assert run("edit", steerable.path, *moves, *common, "--out", tmp_path / "edit.png")[0] == 0
    np.testing.assert_array_equal(pixels(answer.content), pixels((tmp_path / "edit.png").read_bytes()))
    by_url = one_by_one.get(f"/v1/images/5.png?psi=0.7&precision={precision}&edits=smile:1.25;pose.1@3-4:-0.1;style:2")
    assert by_url.content == answer.content
    recipe = read_recipe(tmp_path / "served.png")
    assert (recipe.command, recipe.moves) == ("edit", ("smile=1.25", "pose.1@3-4=-0.1", "style=2"))
    again = ["again", tmp_path / "served.png", "--bundle", steerable.path, "--threads", 1, "--out", tmp_path / "again.png"]
    assert run(*again, "--directions", file)[0] == 0
    assert_same_picture(tmp_path / "again.png", tmp_path / "served.png")
    code, error = run(*again)
    assert (code, "name their file with --directions" in error) == (2, True)


def test_an_edit_comes_after_mixing_and_the_way_to_another_seed_and_again_makes_it_once_more(
    one_by_one: httpx.Client, steerable: Bundle, file: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    body = {"seeds": [1], "psi": 0.8, "mix": {"middle": 2}, "toward": 3, "at": 0.25}
    answer = post(one_by_one, **body, edits={"pose.1": 2})
    with Generator.load(steerable, threads=1) as g:
        mapped = g.map(z_from_seeds([1, 2, 3], 24), 0.8)
        ws = mapped[:1].copy()
        ws[0, 3:6] = mapped[1, 3:6]
        ws = (1 - np.float32(0.25)) * ws + np.float32(0.25) * mapped[2:]
        ws[:, :2] += 2 * read_directions(file)["pose.1"].vector
        assert_same(pixels(answer.content), g.synthesize(ws)[0])
    (tmp_path / "served.png").write_bytes(answer.content)
    assert read_recipe(tmp_path / "served.png").command == "compose"
    options = ["--bundle", steerable.path, "--directions", file, "--threads", 1, "--out", tmp_path / "again.png"]
    assert run("again", tmp_path / "served.png", *options)[0] == 0
    assert_same_picture(tmp_path / "again.png", tmp_path / "served.png")


def test_a_batch_has_images_with_and_without_edits(client: httpx.Client, steerable: Bundle, file: Path) -> None:
    strengths = [0, 1.5, -1.5, 0]
    mixed = zipped(post(client, seeds="1-4", edits={"smile": strengths, "style": [0, 0, 3, 0]}).content)
    plain = [pixels(data) for _, data in zipped(post(client, seeds="1-4").content)]
    directions = read_directions(file)
    with Generator.load(steerable, threads=1) as g:
        ws = g.map(z_from_seeds(range(1, 5), 24)) + np.float32(strengths)[:, None, None] * directions["smile"].vector
        offsets = np.float32([0, 0, 3, 0])[:, None] * directions["style"].vector
        expected = g.synthesize(ws, style_offsets=offsets)
    for i, (name, data) in enumerate(mixed):
        assert name == f"{i:04d}-seed{i + 1}.png"
        assert_same(pixels(data), expected[i])
    for i in (0, 3):
        assert_same(plain[i], expected[i])
    assert np.abs(plain[1].astype(int) - expected[1]).max() > 10


def test_the_etag_knows_the_edits_and_their_file(client: httpx.Client, steerable: Bundle, tmp_path: Path) -> None:
    tag = client.get("/v1/images/7.png?edits=smile:1").headers["etag"]
    assert client.get("/v1/images/7.png?edits=smile:1", headers={"if-none-match": tag}).status_code == 304
    for other in ("", "?edits=smile:1.5", "?edits=smile@0-3:1", "?edits=pose.1:1"):
        assert client.get(f"/v1/images/7.png{other}", headers={"if-none-match": tag}).status_code == 200
    only = directions_of(steerable, tmp_path / "other.safetensors", ("smile",))
    with running([source(steerable, "fp32")], [only]) as server:
        assert httpx.get(f"{server.url}/v1/images/7.png?edits=smile:1", headers={"if-none-match": tag}).status_code == 200


def test_the_directions_of_a_model_are_listed(client: httpx.Client, file: Path) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert model["directions"] == 3
    listed = client.get("/v1/models/small/directions").json()
    assert listed["sha256"] == read_directions(file).sha256
    assert listed["directions"][0] == {
        "name": "smile", "space": "w", "latents": [0, 1, 2, 3, 4, 5], "method": "scores", "facts": {"share": 0.5},
    }  # fmt: skip
    assert [direction["name"] for direction in listed["directions"]] == ["smile", "pose.1", "style"]
    assert client.get("/v1/models/nope/directions").status_code == 404


def test_without_directions_a_model_lists_none_and_takes_no_edits(bundle: Bundle) -> None:
    with running([source(bundle, "fp32")]) as server, httpx.Client(base_url=server.url, timeout=60) as plain:
        assert plain.get("/v1/models/small/directions").json() == {"directions": [], "sha256": None}
        assert plain.get("/v1/models").json()["models"][0]["directions"] == 0
        answer = post(plain, edits={"smile": 1})
        assert (answer.status_code, "no directions" in answer.json()["error"]) == (400, True)


def test_a_bundle_without_an_input_for_styles_has_the_directions_of_w_alone(bundle: Bundle, tmp_path: Path) -> None:
    file = directions_of(bundle, tmp_path / "d.safetensors")
    with running([source(bundle, "fp32")], [file]) as server, httpx.Client(base_url=server.url, timeout=60) as plain:
        listed = plain.get("/v1/models/small/directions").json()["directions"]
        assert [direction["name"] for direction in listed] == ["smile", "pose.1"]
        answer = post(plain, edits={"style": 1})
        assert (answer.status_code, "no input for styles" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (b'{"smil":1}', "only smile, pose.1, style"),
        (b'{"smile":1e999}', "not valid"),
        (b'{"smile":NaN}', "not valid"),
        (b'{"smile":1001}', "edits"),
        (b'{"smile":[1,1001]}', "edits"),
        (b'{"smile":"1"}', "edits"),
        (b'{"smile":null}', "edits"),
        (b'{"smile":true}', "edits"),
        (b'{"smile":1,"smile":2}', "twice"),
        (b'{"smile":[1,2,3]}', "3 values for 3 images|has 2 values for 3"),
        (b'{"smile":[]}', "0 values"),
        (b'{"":1}', "a move is NAME=STRENGTH"),
        (b'{"smile=1":1}', "a move is NAME=STRENGTH"),
        (b'{"smile@":1}', "a move is NAME=STRENGTH"),
        (b'{"smile@9":1}', "latents are 0 to 5"),
        (b'{"style@0-3":1}', "takes no levels"),
        (b'{"a\\nb":1}', "a move is NAME=STRENGTH"),
        (b'{"' + b"a" * 101 + b'":1}', "length <= 100"),
        (b"{" + b",".join(b'"d%d":1' % i for i in range(MAX_EDITS + 1)) + b"}", f"length <= {MAX_EDITS}"),
        (b"[]", "edits"),
    ],
)
def test_a_wrong_edit_is_one_line_with_status_400(client: httpx.Client, edits: bytes, message: str) -> None:
    answer = client.post("/v1/images", content=b'{"seeds":[1,2],"edits":' + edits + b"}")
    error = answer.json()["error"]
    assert (answer.status_code, any(part in error for part in message.split("|")), "\n" in error) == (400, True, False), error


@pytest.mark.parametrize(
    "query", ["smile", "smile:", "smile:x", "smile:nan", "smile:1;smile:2", ":1", "smile:1001", "nope:1", "smile:1_0", ";"]
)
def test_a_wrong_edit_in_the_url_is_one_line_with_status_400(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/v1/images/1.png?edits={query}")
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]


def test_latents_take_no_edits(client: httpx.Client) -> None:
    answer = post(client, ws=np.zeros((1, 6, 20)).tolist(), edits={"smile": 1})
    assert (answer.status_code, answer.json()["error"]) == (400, "latents ws are the whole image; leave out edits")


def test_kserve_has_the_tensors_that_it_had(client: httpx.Client) -> None:
    document = client.get("/v2/models/small").json()
    assert [tensor["name"] for tensor in document["inputs"]] == ["seed", "psi", "cutoff", "ws"]


def test_files_of_directions_are_checked_before_a_network_is_loaded(
    bundle: Bundle, steerable: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    other = export_bundle(make_checkpoint(another=True), tmp_path / "other", ["fp32"], verify_seeds=0)
    own, twin = directions_of(bundle, tmp_path / "own.safetensors"), directions_of(bundle, tmp_path / "twin.safetensors")
    foreign = directions_of(other, tmp_path / "foreign.safetensors")
    styles = directions_of(steerable, tmp_path / "styles.safetensors", ("style",))
    (tmp_path / "damaged.safetensors").write_bytes(own.read_bytes()[:-1] + b"\0")
    for files, message in (
        ([foreign], "these directions belong to the network"),
        ([own, twin], "stylert directions join"),
        ([styles], "--style-offsets"),
        ([tmp_path / "damaged.safetensors"], "damaged"),
        ([tmp_path / "none.safetensors"], "does not exist"),
        ([tmp_path], "none.safetensors|is not a file|not a"),
    ):
        options = [option for file in files for option in ("--directions", file)]
        code, error = run("serve", f"small={bundle.path}", "--port", 0, "--backend", "onnxruntime", *options)
        assert (code, any(part in error for part in message.split("|")), error.count("\n")) == (2, True, 1), error
        assert '"loaded"' not in error
    settings = ServerSettings(port=0)
    with pytest.raises(StylertError, match="from which none of these bundles was exported"):
        ImageServer([source(bundle, "fp32"), source(steerable, "fp32", name="b")], settings, [foreign])


def test_each_bundle_has_the_directions_of_its_network(
    bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    other = export_bundle(make_checkpoint(another=True), tmp_path / "other", ["fp32"], verify_seeds=0)
    files = [
        directions_of(other, tmp_path / "a.safetensors", ("pose.1",)),
        directions_of(bundle, tmp_path / "b.safetensors", ("smile",)),
    ]
    with running([source(bundle, "fp32"), source(other, "fp32", name="other")], files) as server:
        for name, expected in (("small", "smile"), ("other", "pose.1")):
            listed = httpx.get(f"{server.url}/v1/models/{name}/directions").json()["directions"]
            assert [direction["name"] for direction in listed] == [expected]


def test_a_reload_reads_the_directions_again_and_refuses_a_network_that_has_none(
    bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "live"))
    file = directions_of(bundle, tmp_path / "d.safetensors", ("smile",))
    with (
        running([source(Bundle.load(folder), "fp32")], [file], api_key=KEY) as server,
        httpx.Client(base_url=server.url, headers={"x-api-key": KEY}, timeout=60) as client,
    ):

        def listed() -> list[Any]:
            return [direction["name"] for direction in client.get("/v1/models/small/directions").json()["directions"]]

        assert listed() == ["smile"]
        directions_of(bundle, file, ("pose.1",))
        assert client.post("/v1/models/small/reload").status_code == 200
        assert listed() == ["pose.1"]
        new = export_bundle(make_checkpoint(another=True), folder, ["fp32"], verify_seeds=0)
        refused = client.post("/v1/models/small/reload")
        assert (refused.status_code, "belongs to the network of the new bundle" in refused.text) == (409, True)
        assert post(client, edits={"pose.1": 1}).status_code == 200
        directions_of(new, file, ("pose.1", "smile"))
        assert client.post("/v1/models/small/reload").status_code == 200
        assert listed() == ["pose.1", "smile"]
