"""The examples run by the commands in their first lines. Together they lead from drawings to generated images."""

from __future__ import annotations

import importlib.util
import json
import os
import re
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
    (tmp_path / "mine.ppm").write_bytes(b"P6\n1 1\n255\nabc")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for seed, psi, out in (
        (1, 0.7, tmp_path / "mine.ppm"),
        (1, 0.7, bundle.path / "bundle.json"),
        (1, 0.7, tmp_path),
        (1, 0.7, "/dev/null"),
        (1, 0.7, tmp_path / "none" / "x.ppm"),
        (-1, 0.7, tmp_path / "x.ppm"),
        (2**32, 0.7, tmp_path / "x.ppm"),
        ("7a", 0.7, tmp_path / "x.ppm"),
        (1, "nan", tmp_path / "x.ppm"),
        (1, 1e30, tmp_path / "x.ppm"),
    ):
        refused = run(bundle.path, "fp32", seed, psi, out)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


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
    for wrong in ((SHIPPED, tmp_path / "ws.bin", "x.ppm"), (engine, SHIPPED, "x.ppm"), (engine, tmp_path / "ws.bin", "ws.bin")):
        refused = run(*wrong[:2], tmp_path / wrong[2])
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert not (tmp_path / "x.ppm").exists()
    assert (tmp_path / "ws.bin").read_bytes() == ws[0].tobytes()


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
