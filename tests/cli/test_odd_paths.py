"""Every command refuses paths that name no ordinary file in one line: pipes, devices, links that lead nowhere, impossible names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.cli import main as cli
from stylert.cli.latents.finding import find_principal_components
from stylert.runtime.bundle import Bundle

#: Arguments of each command; `IN` is the odd path. `b` is a bundle, `m` a checkpoint, `d` a file of directions and
#: `pictures` a folder of pictures.
INPUTS = (
    "export IN --out o/b",
    "build IN",
    "generate IN --seeds 0 --out o/g",
    "verify IN",
    "verify b --against IN",
    "tune IN --against m --minutes 0",
    "tune b --against IN --minutes 0",
    "import IN --out o/m.safetensors",
    "mix IN --rows 0 --cols 1 --out o/m.png",
    "interpolate IN --seeds 0,1 --out o/v.webp",
    "again IN --out o/a.png",
    "again IN --out o/a.png --bundle b",
    "dataset IN --out o/d.zip --resolution 8",
    "augment-preview IN --out o/s.png",
    "train --data IN --out o/run --preset cpu-small",
    "train --data pictures --out o/run --preset cpu-small --transfer IN",
    "metrics IN --metrics ppl_w --images 2",
    "metrics m --metrics fd8 --data IN",
    "metrics m --metrics fid8 --data pictures --inception IN",
    "bench IN --scenario single-stream",
    "bench compare IN IN",
    "bench report IN --out o/r.html",
    "demo IN --out o/demo",
    "serve IN --port 0",
    "serve name=IN --port 0",
    "serve b --port 0 --api-key-file IN",
    "serve b --port 0 --directions IN",
    "directions sefa IN --out o/d.safetensors",
    "directions scores IN pictures/a.png --out o/d.safetensors",
    "directions scores m IN --out o/d.safetensors",
    "directions pictures m --bundle b --name a --with IN --without pictures --out o/d.safetensors",
    "directions pictures m --bundle IN --name a --with pictures --without pictures --out o/d.safetensors",
    "directions join IN --out o/d.safetensors",
    "directions show IN",
    "directions sheet b IN --out o/s.png",
    "edit b --directions IN --direction a=1 --seeds 0 --out o/e.png",
    "edit IN --directions d --direction pc0=1 --seeds 0 --out o/e.png",
    "web IN --out o/site",
    "web b --out o/site --runtime-from IN",
    "web b --out o/site --directions IN",
)
#: The same for `OUT`, an odd path as the place of an output.
OUTPUTS = (
    "export m --out OUT --precision fp32 --backend onnxruntime --verify-seeds 0",
    "generate b --seeds 0 --out OUT",
    "generate b --seeds 0 --out OUT --grid",
    "mix b --rows 0 --cols 1 --out OUT",
    "interpolate b --seeds 0,1 --out OUT --seconds 0.1",
    "directions pca m --out OUT",
    "edit b --directions d --direction pc0=1 --seeds 0 --out OUT",
    "dataset pictures --out OUT --resolution 8",
    "augment-preview pictures --out OUT --images 1",
    "import m --out OUT",
    "verify b --seeds 1 --backend onnxruntime --json OUT",
    "doctor --json OUT",
    "train --data pictures --out OUT --kimg 0 --preset cpu-small",
)
PATHS = {
    "pipe": "pipe.png",
    "loop": "loop.png",
    "device": "/dev/zero",
    "link to a device": "zero.png",
    "below a file": "m/x.png",
    "too long": f"{'a' * 300}.png",
    "too deep": "/" + "a/" * 3000 + "b.png",
    "not UTF-8": os.fsdecode(b"\xff\xfe/x\xff.png"),
    "a null character": "a\0b.png",
    "escape codes": "\x1b[2J\n.png",
}
INPUT_ONLY = {"absent": "absent.png", "empty": "empty.png", "dangling": "dangling.png", "no name": "", "text": "text.png"}


@pytest.fixture(scope="module")
def place(bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with odd files and good ones."""
    place = tmp_path_factory.mktemp("odd")
    (place / "b").symlink_to(bundle.path)
    (place / "m").symlink_to(checkpoint)
    find_principal_components(checkpoint, place / "d", None, count=1, samples=100)
    (place / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / "pictures" / "a.png")
    os.mkfifo(place / "pipe.png")
    (place / "loop.png").symlink_to("loop.png")
    (place / "zero.png").symlink_to("/dev/zero")
    (place / "dangling.png").symlink_to("nowhere")
    (place / "empty.png").touch()
    (place / "text.png").write_text("some text\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def run(line: str, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    words = [path if word in ("IN", "OUT") else word for word in line.split()]
    monkeypatch.setattr(sys, "argv", ["stylert", *words])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return int(e.value.code or 0), capsys.readouterr().err


def files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if not path.is_dir())


@pytest.mark.timeout(120)  # to open a pipe waits without end
@pytest.mark.parametrize("name", [*PATHS, *INPUT_ONLY])
def test_an_odd_input_is_one_line(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(place)
    for line in INPUTS:
        if name == "text" and "--api-key-file" in line:
            continue  # a text is a key
        status, err = run(line, (PATHS | INPUT_ONLY)[name], monkeypatch, capsys)
        assert status == 2, (line, err)
        assert len(err.splitlines()) == 1, (line, err)
        assert err.startswith("stylert: ")
        assert err.rstrip("\n").isprintable(), line
        assert files_of(place) == before, line


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PATHS)
def test_an_odd_output_is_one_line_or_is_written(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in OUTPUTS:
        status, err = run(line, PATHS[name], monkeypatch, capsys)
        possible = name in ("not UTF-8", "escape codes")
        assert status in ((0, 2) if possible else (2,)), (line, err)
        if status == 2:
            assert err.splitlines()[-1].startswith("stylert: "), (line, err)
        assert err.replace("\n", "").isprintable(), line
        assert not list(place.rglob(".*.stylert.*"))
    assert (place / "pipe.png").is_fifo()
    assert (place / "zero.png").is_symlink()
