"""Commands that are killed, stopped or out of disk space: outputs are whole or absent, inputs stay, and a rerun works."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.cli import main as cli
from stylert.models.checkpoint import write_generator
from stylert.runtime import engines
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.image_metadata import read_comment
from tests.conftest import random_arrays, small_config
from tests.draws import draws_of, fuzz_budget
from tests.faults import at_call, forget_swept_folders, full_disk, recorded_states, small_disk
from tests.test_faults import contents, hidden

#: A command line: from the folder of inputs, the folder of outputs and the version of the outputs, 1 or 2.
Command = Callable[[Path, Path, int], tuple[object, ...]]

SMALL_BENCH = ("--batch", 1, "--seconds", 0.01, "--runs", 1, "--rounds", 1, "--seeds", 0, "--no-layers", "--no-ceilings")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

COMMANDS: dict[str, Command] = {
    "generate": lambda i, o, v: ("generate", i / "b", "--seeds", "0-2", "--out", o / "images", "--psi", v / 2),
    "generate grid": lambda i, o, v: ("generate", i / "b", "--seeds", "0-2", "--out", o, "--psi", v / 2, "--grid"),
    "mix": lambda i, o, v: ("mix", i / "b", "--rows", 0, "--cols", "1-2", "--out", o / "m.jpg", "--psi", v / 2),
    "webp": lambda i, o, v: (*interpolation(i, v), o / "v.webp"),
    "gif": lambda i, o, v: (*interpolation(i, v), o / "v.gif"),
    "mp4": lambda i, o, v: (*interpolation(i, v), o / "v.mp4"),
    "again": lambda i, o, v: ("again", i / f"{v}.png", "--bundle", i / "b", "--out", o / "again.png"),
    "dataset": lambda i, o, v: ("dataset", i / "pictures", "--out", o / "d.zip", "--resolution", 8, "--max-images", v),
    "augment-preview": lambda i, o, v: ("augment-preview", i / "pictures", "--out", o / "a.png", "--images", 1, "--seed", v),
    "import": lambda i, o, v: ("import", i / f"{v}.safetensors", "--out", o / "m.safetensors"),
    "convert": lambda i, o, v: ("convert", i / f"{v}.safetensors", "--to", "stylegan2-ada-pytorch", "--out", o / "m.pkl"),
    "project": lambda i, o, v: (
        *("project", i / "pictures", "--checkpoint", i / "2.safetensors", "--steps", v, "--starts", 1, "--candidates", 1),
        *("--out", o / "p", "--replace", "--json", o / "p.json"),
    ),
    "drag": lambda i, o, v: (
        *("drag", i / "2.safetensors", "--seed", v, "--point", "2,2:5,5", "--steps", 2, "--seconds", 600),
        *("--out", o / "d", "--json", o / "d.json"),
    ),
    "build": lambda i, o, v: ("build", o / "b", "--backend", "onnxruntime", "--precision", "fp32", "--force"),
    "verify": lambda i, o, v: (
        *("verify", i / "b", "--against", i / "1.safetensors", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--seeds", v, "--json", o / "v.json"),
    ),
    "report": lambda i, o, v: ("bench", "report", i / f"{v}.json", "--out", o / "r.html"),
    "bench": lambda i, o, v: (
        *("bench", i / "b", *SMALL_BENCH, "--scenario", "single-stream", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--json", o / "r.json"),
    ),
    "doctor": lambda i, o, v: ("doctor", "--json", o / "d.json"),
}
#: Commands whose outputs differ from run to run. They are compared by whether they are whole.
VARYING = ("build", "bench", "doctor")
SLOW = ("bench", "project", "drag")


def interpolation(inputs: Path, version: int) -> tuple[object, ...]:
    seeds = ("--seeds", "0,1", "--seconds", 0.2, "--fps", 10, "--psi", version / 2)
    return ("interpolate", inputs / "b", *seeds, "--out")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in COMMANDS])
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "mp4" and importlib.util.find_spec("av") is None:
        pytest.skip("PyAV is not installed")
    if request.param == "bench" and importlib.util.find_spec("psutil") is None:
        pytest.skip("psutil is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def inputs(bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, pictures with recipes, a folder of pictures, two checkpoints and two results."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(bundle.path, folder / "b")
    shutil.copyfile(checkpoint, folder / "1.safetensors")
    cfg = small_config(resolution=8)
    write_generator(folder / "2.safetensors", cfg, random_arrays(cfg, draws_of("interrupted")))
    (folder / "pictures").mkdir()
    for i in range(2):
        pixels = draws_of(f"interrupted {i}").integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    for version, results in enumerate(sorted(RESULTS.glob("*/results.json"))[:2], 1):
        shutil.copyfile(results, folder / f"{version}.json")
    return folder


@pytest.fixture
def stylert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A function that runs a command as a new process would. It returns the exit code and what was printed to stderr."""

    def run(args: tuple[object, ...]) -> tuple[int, str]:
        forget_swept_folders(monkeypatch)
        monkeypatch.setattr(sys, "argv", ["stylert", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            cli.main()
        return int(e.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture
def place(name: str, inputs: Path, tmp_path: Path, stylert: Any) -> Path:
    """A folder with version 1 of the outputs, and the user's own file."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    if name == "build":
        shutil.copytree(inputs / "b", place / "b")
    if name == "again":
        for version in (1, 2):
            made = ("mix", inputs / "b", "--rows", 0, "--cols", version, "--out", inputs / f"{version}.png")
            assert stylert(made)[0] == 0
    assert stylert(COMMANDS[name](inputs, place, 1))[0] == 0
    return place


def is_whole(path: Path) -> bool:
    """Whether an output that varies from run to run is complete."""
    if path.suffix == ".json" and path.name != engines.ENGINE_JSON:
        json.loads(path.read_text())
    return True


def check(name: str, state: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Each output is that of version 1 or of version 2, or it is absent where version 1 had none."""
    left = contents(state)
    if name == "build":
        loaded = Bundle.load(state / "b")
        assert engines.find_engine(loaded, engines.engine_key(loaded, "onnxruntime", "fp32")) is not None
        assert left.keys() == old.keys()
        return
    for file in {**left, **old, **new}:
        assert left.get(file) in (old.get(file), new.get(file)) or (name in VARYING and is_whole(state / file)), file


def test_a_kill_at_any_call_leaves_whole_outputs_and_the_next_run_leaves_nothing_hidden(
    name: str, inputs: Path, place: Path, tmp_path: Path, stylert: Any
) -> None:
    old, given = contents(place), contents(inputs)
    with recorded_states(place, tmp_path / "states") as states:
        assert stylert(COMMANDS[name](inputs, place, 2))[0] == 0
    new = contents(place)
    assert len(states) > 3, "the writing of a file syncs and renames"
    assert old != new or name in ("build", "doctor")  # which write the same again
    seen = []
    for state in states:
        check(name, state, old, new)
        left = len(hidden(state)), contents(state)
        if left in seen:
            continue  # the same state again: the same rerun
        seen.append(left)
        status, err = stylert(COMMANDS[name](inputs, state, 2))
        assert status == 0, err
        assert hidden(state) == []
        check(name, state, new, new)
    assert contents(inputs) == given


def test_ctrl_c_or_sigterm_at_any_call_leaves_whole_outputs(
    name: str, inputs: Path, place: Path, tmp_path: Path, stylert: Any
) -> None:
    old, given = contents(place), contents(inputs)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    assert stylert(COMMANDS[name](inputs, copy, 2))[0] == 0
    new = contents(copy)
    draws = random.Random(name)
    for call in range(0, 100, fuzz_budget(3, 1)):
        shutil.rmtree(place)
        if name == "build":
            shutil.copytree(inputs / "b", place / "b")
            assert stylert(COMMANDS[name](inputs, place, 1))[0] == 0
            old = contents(place)
        else:
            for file, content in old.items():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                (place / file).write_bytes(content)
        number = draws.choice([signal.SIGINT, signal.SIGTERM])
        with at_call(call, partial(os.kill, os.getpid(), number)) as reached:
            status, err = stylert(COMMANDS[name](inputs, place, 2))
        check(name, place, old, new)
        if not reached:
            assert status == 0
            break
        assert status in (0, 128 + number), err
        if status:
            assert err.splitlines()[-1] == "stopped"
            assert "Traceback" not in err
    assert not reached
    assert stylert(COMMANDS[name](inputs, place, 2))[0] == 0
    assert hidden(place) == []
    assert contents(inputs) == given


@contextmanager
def files_of_at_most(size: int):
    """A disk that is full after so many bytes of each file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_outputs(
    name: str, share: float, inputs: Path, place: Path, stylert: Any
) -> None:
    old, given = contents(place), contents(inputs)
    sizes = [len(content) for file, content in old.items() if file != "notes.txt"]
    room = int(share * (min(sizes) if name != "build" else 3_000))
    with files_of_at_most(room):
        status, err = stylert(COMMANDS[name](inputs, place, 1))
    refused("File too large", status, err, place, old)
    assert contents(inputs) == given
    assert stylert(COMMANDS[name](inputs, place, 2))[0] == 0


def refused(reason: str, status: int, err: str, place: Path, old: dict[str, bytes]) -> None:
    """Check that a command ended with one line about the disk, and left the earlier outputs alone."""
    assert status == 2, err
    assert err.splitlines()[-1].startswith("stylert: ")
    assert reason in err.splitlines()[-1] or "is the disk full?" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert contents(place) == old
    assert hidden(place) == []


def test_a_disk_without_space_is_one_line_and_leaves_the_earlier_outputs(
    name: str, inputs: Path, place: Path, tmp_path: Path, stylert: Any
) -> None:
    given = contents(inputs)
    with small_disk(tmp_path / "disk", 64 * 2**20) as disk:
        there = shutil.copytree(place, disk / "place")
        old = contents(there)
        left = min(len(content) for file, content in old.items() if file != "notes.txt") * 4 // 10
        with full_disk(disk, left):
            status, err = stylert(COMMANDS[name](inputs, there, 1))
        refused("No space left on device", status, err, there, old)
        assert contents(inputs) == given
        assert stylert(COMMANDS[name](inputs, there, 2))[0] == 0


def test_an_import_of_generator_and_run_is_done_again_after_a_kill_between_both(
    tmp_path: Path, stylert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
    from stylert.models.stylegan2.networks import Discriminator, Generator
    from tests.models.importers.official_files import official_file

    network: dict[str, Any] = {"resolution": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    cfg = GeneratorConfig(**network, z_dim=8, w_dim=8)
    nets = Generator(cfg).eval(), Generator(cfg).eval(), Discriminator(DiscriminatorConfig(**network)).eval()
    official_file(tmp_path / "x.pkl", *nets)
    place = tmp_path / "place"
    place.mkdir()

    def command(folder: Path) -> tuple[object, ...]:
        training = ("--training", folder / "run", "--preset", "cpu")
        return ("import", tmp_path / "x.pkl", "--out", folder / "m.safetensors", *training)

    with recorded_states(place, tmp_path / "states") as states:
        status, err = stylert(command(place))
        assert status == 0, err
    new = contents(place)
    assert sorted(new) == ["m.safetensors", "run/snapshot.safetensors"]
    partly = 0
    for state in states:
        left = contents(state)
        assert all(new[file] == content for file, content in left.items())
        partly += len(left) == 1
        if "run/snapshot.safetensors" not in left:
            assert stylert(command(state))[0] == 0
            assert contents(state) == new
            assert hidden(state) == []
    assert partly > 0


def test_the_recipe_is_in_the_file_from_the_moment_it_appears(inputs: Path, tmp_path: Path, stylert: Any) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with recorded_states(place, tmp_path / "states") as states:
        assert stylert(COMMANDS["mix"](inputs, place, 1))[0] == 0
    for state in states:
        for file in contents(state):
            assert '"mix"' in read_comment(state / file)
