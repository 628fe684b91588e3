"""The examples run by the commands in their first lines. Together they lead from drawings to generated images."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylert.core.images.grids import as_uint8, make_grid
from stylert.core.images.similarity import psnr
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.models.checkpoint import read_generator, read_metadata
from stylert.runtime import Generator
from stylert.runtime.engines import build_engine
from stylert.train.data.dataset import ImageDataset
from tests.models.importers.stylegan3_files import stylegan3_file
from tests.models.stylegan3.tiny import randomized, tiny_config

EXAMPLES = Path(__file__).parent.parent / "examples"
SHIPPED = EXAMPLES / "cats64.safetensors"


def python(*args: object) -> str:
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cats") / "cats.zip"
    python(EXAMPLES / "make_cats.py", "--count", 24, "--resolution", 16, "--out", path)
    return path


def test_the_cats_are_distinct_labelled_images_in_the_official_layout(cats: Path) -> None:
    dataset = ImageDataset(cats, use_labels=True)
    assert (len(dataset), dataset.resolution) == (24, 16)
    assert len({image.tobytes() for image in dataset.images}) == 24
    assert dataset.labels is not None
    np.testing.assert_array_equal(dataset.labels.sum(1), 1)


@pytest.mark.long
def test_drawings_become_a_trained_exported_and_verified_generator(cats: Path, tmp_path: Path) -> None:
    command = "from stylert.cli.main import main; main()"
    run = tmp_path / "run"
    options = ("--preset", "cpu", "--batch", 4, "--channel-base", 256, "--channel-max", 16, "--kimg", "0.016")
    python("-c", command, "train", "--data", cats, "--out", run, *options)
    python("-c", command, "train", "--data", cats, "--out", run, "--resume", "--kimg", "0.024")
    python(
        "-c", command, "train", "--data", cats, "--out", tmp_path / "next", *options, "--transfer", run / "model.safetensors"
    )
    python(EXAMPLES / "release_checkpoint.py", run / "snapshot.safetensors", tmp_path / "m.safetensors", "--info", "credit=me")
    weights = read_generator(tmp_path / "m.safetensors")
    assert weights.info == {"credit": "me", "kimg": 0.024}
    bundle = export_bundle(tmp_path / "m.safetensors", tmp_path / "bundle")
    assert all(row.passed for row in verify(bundle, against=tmp_path / "m.safetensors", seeds=4))
    python(EXAMPLES / "generate.py", bundle.path, tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").size == (64, 32)


def test_the_curve_of_metrics_has_the_values_of_each_run_and_names_the_lowest(tmp_path: Path) -> None:
    for run, values in {"first": [300, 100, 150], "second": [200, 90, 40]}.items():
        rows = [{"kimg": kimg, "FD": v, "noise": "random"} for kimg, v in enumerate(values)] + [{"kimg": 9, "FD": 1}]
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kimg": 7, "FD"')
    command = (EXAMPLES / "metrics_curve.py", tmp_path / "first", tmp_path / "second", "--out", tmp_path / "curve.png")
    printed = python(*command)
    assert "first: 3 snapshots, FD is lowest at 1 kimg: 100" in printed
    assert "second: 3 snapshots, FD is lowest at 2 kimg: 40" in printed
    with Image.open(tmp_path / "curve.png") as picture:
        assert len(set(np.asarray(picture.convert("L")).ravel())) > 10


@pytest.mark.slow
def test_runs_are_compared_after_the_same_processor_time(cats: Path, tmp_path: Path) -> None:
    small = "--channel-base 64 --channel-max 8 --half none"
    command = (EXAMPLES / "compare_training.py", "--data", cats, "--out", tmp_path, "--metrics", "fd16")
    runs = ("--run", f"plain={small}", "--run", f"hinge={small} --loss hinge")
    python(*command, *runs, "--cpu-seconds", 20)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [(row["run"], row["kimg"] > 0, row["FD-EffNetLite0"] > 0) for row in document["runs"]] == [
        ("plain", True, True),
        ("hinge", True, True),
    ]
    for row in document["runs"]:
        assert row["kimg"] == read_metadata(tmp_path / row["run"] / "snapshot.safetensors")["facts"]["nimg"] / 1000


def test_morph_draws_the_images_in_half_blocks_and_prints_frame_times(tmp_path: Path) -> None:
    bundle = export_bundle(SHIPPED, tmp_path / "bundle", ["fp32"])
    options = ("--backend", "onnxruntime", "--precision", "fp32", "--fps", 4, "--seconds", 0.5, "--seeds", "3,4")
    command = [
        sys.executable,
        EXAMPLES / "morph.py",
        bundle.path,
        *options,
        "--frames",
        3,
        "--screenshot",
        tmp_path / "last.png",
    ]
    env = {**os.environ, "COLUMNS": "100", "LINES": "50"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, encoding="utf-8", timeout=1500, env=env)
    assert done.returncode == 0, done.stderr
    frames = done.stdout.split("\x1b[H")[1:]
    assert len(frames) == 3
    assert "3 frames at" in done.stderr
    assert "p99" in done.stderr
    with Generator.load(bundle) as g:
        expected = g([3, 4], psi=0.7)  # four frames per round: keyframe, middle, keyframe, middle
    for frame, image in ((frames[0], expected[0]), (frames[2], expected[1])):
        cells = re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", frame)
        numbers = np.array(cells, int).reshape(32, 64, 2, 3)
        pixels = numbers.transpose(0, 2, 1, 3).reshape(64, 64, 3)
        assert np.abs(pixels - image.astype(int)).max() <= 1
    last = np.asarray(Image.open(tmp_path / "last.png"))
    assert np.abs(last[::8, ::8].astype(int) - expected[1].astype(int)).max() <= 1


@pytest.mark.long
def test_images_of_the_shipped_checkpoint_are_on_white_and_differ_by_seed(tmp_path: Path) -> None:
    assert SHIPPED.stat().st_size < 20 * 2**20
    assert "David Revoy" in read_generator(SHIPPED).info["credit"]
    bundle = export_bundle(SHIPPED, tmp_path / "bundle")
    for precision, floor in (("fp32", 60), ("int8", 35)):
        (row,) = verify(bundle, SHIPPED, ["onnxruntime"], [precision], seeds=16)
        assert row.psnr_db >= floor
        with Generator.load(bundle, precision=precision) as g:
            images = g(range(16), psi=0.7).astype(float)
        assert images.shape == (16, 64, 64, 3)
        white = (images.min(3) > 235).mean((1, 2))  # 29 to 42 % of the pixels in the training images
        assert 0.2 < white.mean() < 0.5
        distances = [np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]]
        assert min(distances) > 2


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_zero_copy_shares_the_images_memory_with_another_library(tmp_path: Path, library: str) -> None:
    bundle = export_bundle(SHIPPED, tmp_path / "bundle", ["fp32"])
    command = [sys.executable, EXAMPLES / "zero_copy.py", bundle.path, "--library", library, "--precision", "fp32"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{library}: (4, 64, 64, 3), the same memory: yes",
        "latents taken from it give the same images: yes",
    ]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_cpp_program_makes_the_same_images_as_python_from_the_bundles_engine(tmp_path: Path) -> None:
    openvino = Path(pytest.importorskip("openvino").__file__).parent
    libraries = list((openvino / "libs").glob("libopenvino.so.*"))
    if not (openvino / "include").is_dir() or not libraries:
        pytest.skip("this OpenVINO has no headers")
    program, source = tmp_path / "generate", EXAMPLES / "generate.cpp"
    options = ["-std=c++17", "-O0", "-Wall", "-isystem", openvino / "include", *libraries, f"-Wl,-rpath,{openvino / 'libs'}"]
    compiled = subprocess.run(["g++", source, *options, "-o", program], capture_output=True, text=True, timeout=1500)
    assert (compiled.returncode, compiled.stderr) == (0, "")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=1500)

    bundle = export_bundle(SHIPPED, tmp_path / "bundle", ["fp32", "bf16"], backends=["openvino"])
    missing = run(bundle.path, "bf16", 1, 0.7, tmp_path / "x.ppm")
    assert (missing.returncode, "generate: " in missing.stderr) == (2, True)
    for precision in ("fp32", "bf16"):
        build_engine(bundle, "openvino", precision)
        with Generator.load(bundle, "openvino", precision) as g:
            expected = g([0, 2**32 - 1], psi=0.7)
        for seed, image in zip((0, 2**32 - 1), expected, strict=True):
            done = run(bundle.path, precision, seed, 0.7, tmp_path / "image.ppm")
            assert done.returncode == 0, done.stderr
            made = np.asarray(Image.open(tmp_path / "image.ppm"))
            # The C++ program runs the mapping network on OpenVINO, so ws differ in their last bits.
            assert psnr(made, image) >= bundle.precision(precision).min_psnr_db


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_cpp_program_on_mnn_makes_the_image_of_python_from_the_bundles_engine(tmp_path: Path) -> None:
    """MNN's wheel has the library, as a module of Python, but no headers. `MNN_INCLUDE` names those of MNN's sources."""
    pytest.importorskip("MNN")
    include = os.environ.get("MNN_INCLUDE")
    if not include:
        pytest.skip("MNN_INCLUDE does not name the headers of MNN")
    spec = importlib.util.find_spec("_mnncengine")
    assert spec is not None
    assert spec.origin is not None
    module, python_libraries = Path(spec.origin), Path(str(sysconfig.get_config_var("LIBDIR")))
    python_library = python_libraries / str(sysconfig.get_config_var("INSTSONAME"))
    if not python_library.is_file() or ".so" not in python_library.name:
        pytest.skip("this Python has no shared library, which MNN's module needs")
    program = tmp_path / "generate_mnn"
    libraries = [module, "-Wl,--no-as-needed", python_library, "-Wl,--allow-shlib-undefined"]
    paths = f"-Wl,-rpath,{module.parent}:{python_libraries}"
    options = ["-std=c++17", "-O0", "-Wall", "-isystem", include, *libraries, paths, "-o", program]
    command = ["g++", EXAMPLES / "generate_mnn.cpp", *options]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert (compiled.returncode, compiled.stderr) == (0, "")

    bundle = export_bundle(SHIPPED, tmp_path / "bundle", ["fp32"], verify_seeds=0)
    build_engine(bundle, "mnn", "fp32")
    with Generator.load(bundle, "mnn") as g:
        ws = g.map(z_from_seeds([7], 512), psi=0.7)
        expected = g.synthesize(ws)[0]
        engine = g.engine
    ws[0].tofile(tmp_path / "ws.bin")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=1500)

    done = run(engine, tmp_path / "ws.bin", tmp_path / "image.ppm")
    assert done.returncode == 0, done.stderr
    assert psnr(np.asarray(Image.open(tmp_path / "image.ppm")), expected) >= bundle.precision("fp32").min_psnr_db
    for wrong in ((SHIPPED, tmp_path / "ws.bin"), (engine, SHIPPED)):
        refused = run(*wrong, tmp_path / "x.ppm")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert not (tmp_path / "x.ppm").exists()


def test_a_stylegan3_pickle_becomes_onnx_networks_and_turned_images(tmp_path: Path) -> None:
    cfg = tiny_config(img_channels=3, conv_kernel=1, use_radial_filters=True, channel_base=512, channel_max=16, margin_size=10)
    generator = randomized(cfg, 1)
    file = stylegan3_file(tmp_path / "network.pkl", generator)
    command = (EXAMPLES / "stylegan3_to_onnx.py", file, tmp_path / "out", "--seeds", "0-1", "--psi", 1)
    pictures = []
    for angle in (0, 90):
        printed = python(*command, "--angle", angle)
        assert "mapping.onnx, synthesis.onnx, images.png of 16 px" in printed
        pictures.append(np.asarray(Image.open(tmp_path / "out" / "images.png")))
    z = torch.from_numpy(z_from_seeds([0, 1], cfg.z_dim))
    expected = make_grid(as_uint8(generator(z).numpy()))
    assert pictures[0].shape == expected.shape
    assert np.abs(pictures[0].astype(int) - expected).max() <= 1
    tiles = [[picture[:16, 16 * i : 16 * i + 16] for i in (0, 1)] for picture in pictures]
    for still, turned in zip(*tiles, strict=True):
        assert still.std() > 1
        assert np.abs(turned.astype(int) - np.rot90(still)).max() <= 1
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert "notes.txt" in done.stderr
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, example: str, *args: object) -> str:
    """The last line of an example that refuses its arguments."""
    monkeypatch.setattr(sys, "argv", [example, *map(str, args)])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    assert e.value.code == 2
    usage, _, line = capsys.readouterr().err.rstrip("\n").rpartition("\n")
    assert usage.startswith("usage: ")
    assert line.startswith(f"{example}: error: ")
    return line


def write_metrics(folder: Path, *rows: object) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_examples_replace_no_file_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"kimg": 1, "FD": 3.0, "noise": "random"}
    run = write_metrics(tmp_path / "run", row, {**row, "kimg": 2, "FD": 2.0})
    for name in ("a.png", "b.json", "b.png", "b-samples.png", "c.safetensors", "results.json"):
        (tmp_path / name).write_text("of the user")
    for arguments in (
        ("metrics_curve.py", run, "--out", tmp_path / "a.png"),
        ("metrics_curve.py", run, "--out", run / "metrics.jsonl"),
        ("training_curve.py", run, "--data", "d.zip", "--floor", "f.zip", "--out", tmp_path / "b"),
        ("compare_training.py", "--data", "d.zip", "--cpu-seconds", 1, "--run", "a", "--out", tmp_path),
        ("release_checkpoint.py", SHIPPED, tmp_path / "c.safetensors"),
    ):
        assert re.search(r"did not (write|draw)|must end in .png", refused(capsys, monkeypatch, *arguments))
    assert {p.read_text() for p in tmp_path.iterdir() if p.is_file()} == {"of the user"}
    assert "FD" in (run / "metrics.jsonl").read_text()
    for _ in range(2):  # its own picture may be replaced
        python(EXAMPLES / "metrics_curve.py", run, "--out", tmp_path / "d.png")


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"kimg": 1, "noise": "random", "FD": "x"}], ["--metric", "FD"], "has no values of 'FD'"),
        ([{"kimg": 1, "noise": "random", "FD": None}], [], "has no metrics"),
        ([{"kimg": 1, "noise": "random", "FD": True}], [], "has no metrics"),
        ([{"kimg": 1, "noise": "random", "best": True}], [], "has no metrics"),
        ([{"kimg": "a", "noise": "random", "FD": 1}], [], "no lines of metrics"),
        ([{"kimg": [1], "noise": "random", "FD": 1}], [], "no lines of metrics"),
        ([{"kimg": None, "noise": "random", "FD": 1}], [], "no lines of metrics"),
        ([{"kimg": 1, "noise": "random", "FD": 1}], ["--metric", "KID\n"], "has no values of"),
        ([{"kimg": 1, "noise": "random", "FD": 1}], ["--out", "q.xyz"], "must end in .png"),
        ([[1], 2, "x"], [], "no lines of metrics"),
    ],
)
def test_the_curve_of_damaged_metrics_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: list[object],
    options: list[str],
    words: str,
) -> None:
    run = write_metrics(tmp_path / "run", *rows)
    assert words in refused(capsys, monkeypatch, "metrics_curve.py", run, "--out", tmp_path / "q.png", *options)
    assert not (tmp_path / "q.png").exists()


def test_the_curve_leaves_out_what_is_no_number_and_shows_names_as_they_are(tmp_path: Path) -> None:
    name = "F$\\frac{$"
    rows = [
        {"kimg": k, "noise": "random", name: v} for k, v in ((1, 2.0), (2, None), (3, "x"), ("4", 1.0), (5, 1e300), (6, 1e-300))
    ]
    run = write_metrics(tmp_path / "a$\\frac{$b", *rows)
    assert f"3 snapshots, {name} is lowest at 6 kimg" in python(EXAMPLES / "metrics_curve.py", run, "--out", tmp_path / "q.png")
