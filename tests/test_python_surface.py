"""Every public function of README and docs takes its argument or refuses it by a StylertError, whatever the value is."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylert.core.errors import StylertError
from stylert.core.images.grids import as_uint8, make_grid, save_grid
from stylert.core.provenance.credentials import read_credential, remove_credential, write_test_credential
from stylert.core.provenance.verification import verify_files
from stylert.core.seeds import format_seeds, parse_seeds, z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.models.checkpoint import read_generator, read_metadata, trained_kimg, write_generator
from stylert.models.converters.convert_checkpoint import write_for_project
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.importers.import_checkpoint import import_checkpoint, read_any_generator, write_imported
from stylert.models.network_kinds import generator_config
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.runtime import Bundle, Generator
from stylert.runtime.engines import build_engine
from stylert.runtime.media.interpolation import keyframe_path
from stylert.runtime.media.pictures import save_image
from stylert.runtime.media.recipes import Recipe, bundle_hash, check_bundle, read_recipe
from stylert.runtime.media.rendering import frames, picture
from stylert.runtime.media.video import write_video
from stylert.runtime.steering.directions_file import read_directions, write_directions
from stylert.runtime.steering.latents_file import Latents, read_latents, write_latents
from stylert.runtime.steering.moves import check_moves, parse_move, steer, steered_batches
from stylert.runtime.style_levels import mix_styles, parse_levels
from stylert.runtime.watermark.detection import Detector
from stylert.runtime.watermark.detector_file import read_detector
from stylert.train.configuration.settings import parse_setting
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.loop import train
from stylert.train.metrics.metric import Metric
from stylert.train.trainer import SINGLE_PROCESS
from tests.runtime.steering.random_files import NUM_WS, W_DIM, random_directions
from tests.runtime.test_arguments import ANYTHING, Unprintable

NETWORKS = (GeneratorConfig(8, channel_base=64), DiscriminatorConfig(8, channel_base=64))
#: A function and right values of all its arguments by name.
Use = tuple[Callable[..., object], dict[str, Any]]


def closed_file() -> io.TextIOWrapper:
    with open(os.devnull, encoding="utf-8") as file:
        return file


#: Values beside those of ANYTHING: made anew for each call, since some are used up.
WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "-1": lambda: -1,
    "0": lambda: 0,
    "2**70": lambda: 2**70,
    "half": lambda: 0.5,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "no text": lambda: "",
    "bytes": lambda: b"x",
    "a name with a null character": lambda: "\0",
    "a surrogate": lambda: "\ud800",
    "a list of lists": lambda: [[1], [1, 2]],
    "a list of nothing": lambda: [None],
    "a list of text": lambda: ["a"],
    "a dictionary": lambda: {"a": 1},
    "an array of objects": lambda: np.array([{}]),
    "an array of dates": lambda: np.zeros((2, 2), "M8[s]"),
    "an empty array": lambda: np.zeros((0, 3)),
    "an array of three axes": lambda: np.zeros((2, 2, 2)),
    "an array of NaN": lambda: np.full((1, 6, 20), np.nan, np.float32),
    "a folder": lambda: Path("."),
    "a device": lambda: Path("/dev/zero"),
    "a closed file": closed_file,
    "an open file": lambda: io.BytesIO(b"x"),
    "a function": lambda: len,
    "an object without text": Unprintable,
}


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """A call that never ends fails."""

    def fail(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def taken_or_refused(use: Use, name: str, value: object) -> None:
    function, right = use
    with bounded(300):
        try:
            result = function(**{**right, name: value})
            if isinstance(result, Iterator):
                list(itertools.islice(result, 2))
        except StylertError as e:
            assert "\n" not in str(e) or isinstance(value, str | Path), e


@pytest.fixture(scope="module")
def uses(bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Use]]:
    folder = tmp_path_factory.mktemp("surface")
    (folder / "images").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "images" / "a.png")
    weights = read_generator(checkpoint)
    directions = random_directions(np.random.default_rng(0), bundle.provenance["checkpoint_sha256"])
    moves, ws = [parse_move("smile=1")], np.zeros((1, NUM_WS, W_DIM), np.float32)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    networks = NetworksToWrite(weights.config, weights.arrays)
    cfg = TrainConfig(*NETWORKS, batch=2, kimg=0.001)
    given = {"backend": "onnxruntime", "precision": "fp32", "seeds": (1,), "psi": (0.7,)}
    latents = Latents(bundle.provenance["checkpoint_sha256"], ws, ("a",))
    recipe = Recipe(command="grid", bundle=bundle_hash(bundle), **given)  # type: ignore[arg-type]
    with Generator.load(bundle, threads=1) as g:
        yield {
            "call": (g, {"seeds": [0], "psi": 1.0, "cutoff": None, "labels": None, "noise": None}),
            "map": (g.map, {"z": np.zeros((1, 24), np.float32), "psi": 1.0, "cutoff": None, "labels": None}),
            "synthesize": (g.synthesize, {"ws": ws, "noise": None, "style_offsets": None}),
            "stream": (g.stream, {"ws": [ws], "ahead": 1}),
            "Bundle.load": (Bundle.load, {"path": bundle.path, "require_signature": None}),
            "network": (bundle.network, {"precision": "fp32", "backend": "onnxruntime"}),
            "checked_file": (bundle.checked_file, {"name": "mapping.onnx"}),
            "build_engine": (build_engine, {"bundle": bundle, "backend_name": "x", "precision": "fp32", "options": 1, "force": 0}),
            "keyframe_path": (
                keyframe_path,
                {"keyframes": np.zeros((3, 6, 8)), "frames": 4, "loop": False, "curve": "smooth", "batch": 2},
            ),
            "mix_styles": (mix_styles, {"row": ws[0], "columns": ws, "indices": [0]}),
            "parse_levels": (parse_levels, {"text": "coarse", "num_ws": 6}),
            "z_from_seeds": (z_from_seeds, {"seeds": [0], "z_dim": 4}),
            "parse_seeds": (parse_seeds, {"text": "0-3"}),
            "format_seeds": (format_seeds, {"seeds": [0, 1]}),
            "read_recipe": (read_recipe, {"path": "none.png"}),
            "save_grid": (save_grid, {"images": images, "path": folder / "a.png", "columns": 2}),
            "make_grid": (make_grid, {"images": images, "columns": 2}),
            "as_uint8": (as_uint8, {"images": images}),
            "save_image": (save_image, {"image": images[0], "path": folder / "b.png", "comment": None}),
            "write_video": (write_video, {"path": folder / "c.gif", "frames": [images], "fps": 10, "comment": ""}),
            "read_directions": (read_directions, {"path": "none"}),
            "write_directions": (write_directions, {"path": folder / "d.safetensors", "directions": directions}),
            "direction": (directions.__getitem__, {"name": "smile"}),
            "check_network": (directions.check_network, {"bundle": bundle}),
            "check_moves": (check_moves, {"directions": directions, "moves": moves, "bundle": bundle}),
            "steer": (steer, {"directions": directions, "ws": ws, "moves": moves, "column": 0}),
            "steered_batches": (
                steered_batches,
                {"directions": directions, "ws": ws, "moves": moves, "batch": 1, "apart": False},
            ),
            "Directions": (
                lambda by_name: dataclasses.replace(directions, by_name=by_name).check_network(bundle),
                {"by_name": directions.by_name},
            ),
            "picture": (partial(picture, g), {"recipe": recipe, "directions": None, "latents": None}),
            "frames": (partial(frames, g), {"recipe": recipe}),
            "check_bundle": (check_bundle, {"recipe": recipe, "bundle": bundle}),
            "read_latents": (read_latents, {"path": "none"}),
            "write_latents": (write_latents, {"path": folder / "l.safetensors", "latents": latents}),
            "write_test_credential": (write_test_credential, {"folder": folder / "key", "replace": False}),
            "remove_credential": (remove_credential, {"folder": folder / "key"}),
            "read_detector": (read_detector, {"path": "none"}),
            "Detector": (Detector, {"content": None, "threads": 1}),
            "read_generator": (read_generator, {"path": checkpoint}),
            "read_any_generator": (read_any_generator, {"path": checkpoint}),
            "read_metadata": (read_metadata, {"path": checkpoint}),
            "trained_kimg": (trained_kimg, {"path": checkpoint}),
            "write_generator": (
                write_generator,
                {"path": folder / "w.safetensors", "config": weights.config, "arrays": weights.arrays, "half": False, "info": {}},
            ),
            "write_for_project": (write_for_project, {"path": folder / "n.pkl", "networks": networks, "project": "stylegan3"}),
            "written networks": (
                lambda **fields: write_for_project(folder / "n.pkl", NetworksToWrite(**fields), "stylegan3"),
                dataclasses.asdict(networks) | {"config": weights.config},
            ),
            "write_imported": (write_imported, {"path": folder / "i.safetensors", "imported": None}),
            "train": (
                train,
                {
                    "cfg": cfg, "dataset": ImageDataset(folder / "images"), "out": folder / "run", "resume": folder / "gone",
                    "start": None, "snap_kimg": 1.0, "keep": 0, "evaluate": None, "writers": (), "device": "cpu",
                    "processes": SINGLE_PROCESS, "compiled": False,
                },
            ),
            "verify": (verify, {"bundle": 1, "against": None, "backends": [], "precisions": [], "seeds": 1, "psi": 1.0}),
            "verify_files": (verify_files, {"paths": [], "anchors": None}),
            "read_credential": (read_credential, {"folder": folder}),
            "Metric.parse": (Metric.parse, {"text": "fd5k", "images": 10}),
            "ImageDataset": (ImageDataset, {"source": folder / "images", "limit": None, "memory": 10**6}),
            "convert_dataset": (
                convert_dataset,
                {"source": folder / "images", "out": folder / "o.zip", "resolution": 4, "transform": "none", "max_images": None},
            ),
            "import_checkpoint": (import_checkpoint, {"path": checkpoint}),
            "export_bundle": (
                export_bundle,
                {
                    "checkpoint": "none", "out": folder / "e", "precisions": None, "noise": "const", "output": "uint8",
                    "backends": ["onnxruntime"], "min_psnr": None, "verify_seeds": 0, "style_offsets": False,
                },
            ),
        }  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_taken_or_refused(
    wrong: str, uses: dict[str, Use], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in uses.values():
        for name in use[1]:
            taken_or_refused(use, name, WRONG[wrong]())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=ANYTHING, place=st.randoms(use_true_random=False))
def test_any_value_is_taken_or_refused(value: Any, place: Any, uses: dict[str, Use], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        use = uses[place.choice(sorted(uses))]
        taken_or_refused(use, place.choice(sorted(use[1])), value)


def test_a_number_is_no_path_and_the_open_file_of_that_number_stays_open(tmp_path: Path) -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        for read in (read_generator, read_directions, read_recipe, read_detector, Bundle.load):
            with pytest.raises(StylertError, match="named by a path"):
                read(descriptor)  # type: ignore[operator]
        os.fstat(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("wrong", WRONG)
def test_configurations_refuse_a_wrong_value_by_a_value_error(wrong: str) -> None:
    """The command line turns the ValueError of a configuration into its one line."""
    for use in (
        lambda value: TrainConfig.from_dict(value),
        lambda value: TrainConfig(value, value, batch=8, kimg=1.0, lr=0.1, r1_gamma=1.0),
        lambda value: TrainConfig(*NETWORKS, batch=8, kimg=1.0, mirror=value),
        lambda value: TrainConfig(*NETWORKS, batch=8, kimg=1.0, class_balanced=value),
        lambda value: parse_setting(value, "1"),
        lambda value: parse_setting("lr", value),
        lambda value: generator_config(value),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            use(WRONG[wrong]())
