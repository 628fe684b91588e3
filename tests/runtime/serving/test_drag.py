"""Images are dragged over HTTP: one at a time, within limits of time and size, and only those of the network that drags."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import BundleError, InputError
from stylert.core.files.digests import sha256_of
from stylert.core.images.handles import Handle
from stylert.core.provenance.signing import says_generated
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.image_metadata import PNG_KEY
from stylert.train.dragging.dragger import Drag, Dragger, DragSettings
from stylert.train.dragging.features import BlockFeatures
from tests.runtime.serving.conftest import running, source
from tests.runtime.serving.test_edits import directions_of


def new_dragger(checkpoint: Path, **settings: Any) -> Dragger:
    generator = generator_module(read_stylegan2_generator(checkpoint, "a test")).requires_grad_(False)
    return Dragger(BlockFeatures(generator.synthesis), DragSettings(**settings), sha256_of(checkpoint))


@dataclass
class SlowDragger:
    """Drags until it is told to end, or its time is over. It notes what it was asked."""

    network: str
    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    seconds: list[float | None] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)

    def drag(
        self,
        ws: np.ndarray,
        handles: Sequence[Handle],
        mask: np.ndarray | None = None,
        *,
        seconds: float | None = None,
        is_stopped: Callable[[], bool],
    ) -> Drag:
        """See `Dragger`."""
        self.seconds.append(seconds)
        self.begun.set()
        while not self.may_end.wait(0.01) and not is_stopped():
            pass
        self.stopped.append(is_stopped())
        self.ended.set()
        image = np.zeros((16, 16, 3), np.uint8)
        return Drag(ws, image, image, np.zeros((len(handles), 2)), (0.0,) * len(handles), 1, "reached", None)


@pytest.fixture(scope="module")
def dragging(bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    directions = directions_of(bundle, tmp_path_factory.mktemp("directions") / "d.safetensors")
    with (
        running([source(bundle, "fp32", "int8")], [directions], new_dragger(checkpoint, steps=4)) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def body(**changes: Any) -> dict[str, Any]:
    return {"image": {"seeds": [3], "psi": 0.7}, "handles": [[4, 4, 9, 4]], **changes}


def mask_text(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture_of(answer: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["base64"])), formats=["PNG"])


def test_an_answer_has_the_latents_and_their_picture(dragging: httpx.Client, bundle: Bundle, checkpoint: Path) -> None:
    answer = dragging.post("/v1/drag", json=body())
    assert answer.status_code == 200, answer.text
    found = answer.json()
    with Generator.load(bundle, threads=1) as generator:
        start = generator.map(np.random.RandomState(3).randn(1, bundle.model["z_dim"]).astype(np.float32), psi=0.7)
        image = generator.synthesize(np.array([found["ws"]], np.float32))[0]
    picture = picture_of(found)
    np.testing.assert_allclose(np.asarray(picture), image, atol=1)
    assert says_generated(picture.info[PNG_KEY])
    expected = new_dragger(checkpoint, steps=4).drag(start[0], [Handle(4, 4, 9, 4)])
    np.testing.assert_allclose(found["ws"], expected.ws, atol=1e-3)
    assert (found["steps"], found["ending"], found["outside_psnr_db"]) == (4, "steps", None)
    assert found["distances"] == pytest.approx(expected.distances, abs=1e-3)
    # The latents are those of an image to drag further.
    again = dragging.post("/v1/drag", json=body(image={"ws": [found["ws"]], "model": "small.int8", "size": 32}))
    assert again.status_code == 200, again.text
    assert (again.json()["model"], picture_of(again.json()).size) == ("small.int8", (32, 32))


def test_a_drag_begins_after_mixes_and_edits(dragging: httpx.Client) -> None:
    plain, edited, mixed = (
        dragging.post("/v1/drag", json=body(image={"seeds": [3], **more})).json()["ws"]
        for more in ({}, {"edits": {"smile": 3}}, {"mix": {"coarse": 5}})
    )
    assert np.abs(np.subtract(plain, edited)).max() > 0.1
    assert np.abs(np.subtract(plain, mixed)).max() > 0.1


def test_a_mask_is_white_where_the_image_may_change(dragging: httpx.Client) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8] = 255
    pixels[..., 3] = 255
    answer = dragging.post("/v1/drag", json=body(mask=mask_text(pixels)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outside_psnr_db"] > 10


def test_models_tell_whether_they_are_dragged(dragging: httpx.Client, client: httpx.Client) -> None:
    models, plain = dragging.get("/v1/models").json(), client.get("/v1/models").json()
    assert [model["drags"] for model in models["models"]] == [True, True]
    assert (models["limits"]["handles"], models["limits"]["drag_seconds"]) == (16, 20)
    assert not any(model["drags"] for model in plain["models"])
    assert "handles" not in plain["limits"]
    assert client.post("/v1/drag", json=body()).status_code in (404, 405)
    schema = dragging.get("/openapi.json").json()["paths"]["/v1/drag"]["post"]
    assert set(schema["requestBody"]["content"]["application/json"]["schema"]["properties"]) == {
        "image",
        "handles",
        "mask",
        "seconds",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"handles": []}, "handles"),
        ({"handles": [[1, 2, 3]]}, "handles"),
        ({"handles": [[1, 2, 3, "x"]]}, "handles"),
        ({"handles": [[i % 16, i // 16, 8, 8.5] for i in range(17)]}, "handles"),
        ({"handles": [[4, 4, 16, 4]]}, "coordinates go from 0 to 15"),
        ({"handles": [[4, 4, 4, 4]]}, "at its target already"),
        ({"handles": [[4, 4, 5, 5], [4, 4, 6, 6]]}, "two handles begin at 4,4"),
        ({"image": {"seeds": [1, 2]}}, "one image, not 2"),
        ({"image": {"seeds": [1], "nope": 1}}, "nope"),
        ({"image": {"ws": [[[0.0] * 20] * 5]}}, "ws"),
        ({"mask": "no base64!"}, "no base64"),
        ({"mask": base64.b64encode(b"no picture").decode()}, "the mask cannot be read"),
        ({"mask": mask_text(np.full((16, 15), 255, np.uint8))}, "the mask is 15x16 and the image 16x16"),
        ({"mask": mask_text(np.zeros((16, 16), np.uint8))}, "black everywhere"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 21}, "seconds"),
        ({"steps": 5}, "steps"),
    ],
)
def test_mistakes_are_one_line(dragging: httpx.Client, changes: dict[str, Any], message: str) -> None:
    answer = dragging.post("/v1/drag", json=body(**changes))
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_text_that_is_no_request_is_refused(dragging: httpx.Client) -> None:
    for text in (b"", b"{", b"[]", b'{"handles": [[1, 2, NaN, 4]]}', b"\xff"):
        answer = dragging.post("/v1/drag", content=text)
        assert answer.status_code == 400, (text, answer.text)
    assert dragging.post("/v1/drag", json=body(image={"model": "other"})).status_code == 404


def test_edits_of_styles_are_refused_because_no_latents_have_them(checkpoint: Path, tmp_path: Path) -> None:
    steerable = export_bundle(checkpoint, tmp_path / "steerable", ["fp32"], style_offsets=True)
    directions = directions_of(steerable, tmp_path / "d.safetensors")
    with running([source(steerable)], [directions], new_dragger(checkpoint, steps=1)) as server:
        answers = [
            httpx.post(f"{server.url}/v1/drag", json=body(image={"edits": {name: 1}}), timeout=60)
            for name in ("style", "smile")
        ]
    assert [answer.status_code for answer in answers] == [400, 200]
    assert "edits of styles cannot be dragged" in answers[0].json()["error"]


def test_a_second_drag_is_told_when_to_come_again_and_images_go_on(bundle: Bundle, checkpoint: Path) -> None:
    slow = SlowDragger(sha256_of(checkpoint))
    with (
        running([source(bundle)], dragger=slow) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, "/v1/drag", json=body(seconds=10))
        assert slow.begun.wait(60)
        second = httpx.post(f"{server.url}/v1/drag", json=body(), timeout=60)
        assert second.status_code == 429
        assert 1 <= int(second.headers["Retry-After"]) <= 10
        assert "one at a time" in second.json()["error"]
        assert httpx.get(f"{server.url}/v1/images/1.png", timeout=60).status_code == 200
        slow.may_end.set()
        assert first.result(60).status_code == 200
        assert client.post("/v1/drag", json=body()).status_code == 200
        assert slow.seconds == [10, 20]


def test_a_client_that_goes_away_ends_its_drag(bundle: Bundle, checkpoint: Path) -> None:
    slow = SlowDragger(sha256_of(checkpoint))
    with running([source(bundle)], dragger=slow) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/drag", json=body(), timeout=1)
        assert slow.ended.wait(60)
        assert slow.stopped == [True]
        slow.may_end.set()
        for _ in range(100):  # the turn comes back with the thread
            answer = httpx.post(f"{server.url}/v1/drag", json=body(), timeout=60)
            if answer.status_code != 429:
                break
        assert answer.status_code == 200


def test_the_time_of_an_answer_bounds_that_of_a_drag(bundle: Bundle, checkpoint: Path) -> None:
    slow = SlowDragger(sha256_of(checkpoint))
    with running([source(bundle)], dragger=slow, request_seconds=1.0) as server:
        answer = httpx.post(f"{server.url}/v1/drag", json=body(), timeout=60)
        assert answer.status_code == 504  # this one keeps no time
        assert slow.seconds == [0.8]
        assert slow.ended.wait(60)


def test_a_mistake_inside_of_a_drag_gives_the_turn_back(bundle: Bundle, checkpoint: Path) -> None:
    class Failing(SlowDragger):
        def drag(self, *values: Any, **more: Any) -> Drag:
            raise InputError("the drag leads nowhere")

    with running([source(bundle)], dragger=Failing(sha256_of(checkpoint))) as server:
        for _ in range(2):
            answer = httpx.post(f"{server.url}/v1/drag", json=body(), timeout=60)
            assert (answer.status_code, answer.json()["error"]) == (400, "the drag leads nowhere")


def test_another_network_drags_nothing(bundle: Bundle) -> None:
    with (
        pytest.raises(BundleError, match="the checkpoint of --drag is abab"),
        running([source(bundle)], dragger=SlowDragger("ab" * 32)),
    ):
        pass


def test_a_drag_ends_with_the_server(bundle: Bundle, checkpoint: Path) -> None:
    slow = SlowDragger(sha256_of(checkpoint))
    with ThreadPoolExecutor(1) as pool:
        with running([source(bundle)], dragger=slow, drain_seconds=1) as server:
            first = pool.submit(httpx.post, f"{server.url}/v1/drag", json=body(), timeout=60)
            assert slow.begun.wait(60)
        assert slow.ended.wait(60)
        assert first.exception(60) is not None or first.result().status_code >= 400
