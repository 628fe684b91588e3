"""StyleGAN1 through the commands: from a pickle to pictures and back, and one line for each command that lacks it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from stylert.core.errors import BundleError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.serving.triton.options import TritonOptions
from stylert.runtime.serving.triton.repository import write_repository
from tests.cli.conftest import Run
from tests.models.importers.stylegan1_files import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_file,
    tensorflow_images,
    tensorflow_variables,
    torch_file,
)
from tests.models.stylegan1.tiny import tiny_config
from tests.runtime.serving.conftest import running, source

CONFIG = tiny_config(channel_base=512, channel_max=16)


@pytest.fixture(scope="module")
def pickle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sg1") / "sg1.pkl"
    return tensorflow_file(path, tensorflow_variables(CONFIG, 1), tensorflow_arguments(CONFIG))


@pytest.fixture(scope="module")
def bundle(pickle_file: Path) -> Bundle:
    return export_bundle(pickle_file, pickle_file.parent / "bundle", ["fp32", "fp16"])


def test_a_pickle_becomes_pictures_whose_recipes_make_them_again(run: Run, pickle_file: Path, tmp_path: Path) -> None:
    code, out, _ = run("import", pickle_file, "--out", "sg1.safetensors")
    assert code == 0
    assert "StyleGAN (TensorFlow), pickle" in out
    assert "16 px, AdaIN" in out
    code, out, _ = run("export", "sg1.safetensors", "--out", "bundle", "--precision", "fp32,fp16,int8", "--verify-seeds", 2)
    assert code == 0
    assert "int8 on onnxruntime" in out
    assert run("generate", "bundle", "--seeds", "0-1", "--psi", "0.7", "--cutoff", 2, "--out", "pictures")[0] == 0
    assert run("mix", "bundle", "--rows", "0-1", "--cols", "2", "--levels", "coarse", "--out", "mix.png")[0] == 0
    for file in ("pictures/seed0001.png", "mix.png"):
        assert run("again", file, "--bundle", "bundle", "--out", "again.png")[0] == 0
        np.testing.assert_array_equal(np.asarray(Image.open("again.png")), np.asarray(Image.open(file)))
    assert run("verify", "bundle", "--against", "sg1.safetensors", "--backend", "onnxruntime", "--seeds", 2)[0] == 0
    assert run("card", "bundle", "--out", "card.md")[0] == 0
    assert "StyleGAN1 generator without labels" in (tmp_path / "card.md").read_text()


def test_pictures_are_those_of_the_project(run: Run, pickle_file: Path) -> None:
    z = z_from_seeds([7], CONFIG.z_dim).astype(np.float64)
    image = tensorflow_images(tensorflow_variables(CONFIG, 1), CONFIG, z, None)[0].transpose(1, 2, 0)
    expected = np.clip(np.floor(image * 127.5 + 128), 0, 255)
    assert run("export", pickle_file, "--out", "bundle", "--precision", "fp32")[0] == 0
    assert run("generate", "bundle", "--seeds", "7", "--out", "pictures")[0] == 0
    picture = np.asarray(Image.open("pictures/seed0007.png")).astype(int)
    assert np.abs(picture - expected).max() <= 1
    assert (picture != expected).mean() < 0.02


def test_a_port_is_imported_with_its_notes(run: Run, tmp_path: Path) -> None:
    torch_file(tmp_path / "a.model", {"g_running": rosinality_state([4, 4, 2, 1], 3, 5, 2, 1, trained=3)})
    code, out, _ = run("import", "a.model", "--out", "a.safetensors")
    assert code == 0
    words = " ".join(out.split())
    assert "rosinality's style-based-gan-pytorch" in words
    assert "the blocks above 16 px were never trained" in words
    assert "drawn from seed 0" in words


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tune {bundle} --against {file}", "stylert tune knows StyleGAN2 alone"),
        ("project a.png --checkpoint {file} --out projected", "stylert project knows StyleGAN2 alone"),
        ("web {bundle} --out out", "stylert web knows StyleGAN2 alone"),
        ("watermark train {file} --out out.safetensors", "stylert watermark knows StyleGAN2 alone"),
        ("metrics {file} --data {file}", "stylert metrics knows StyleGAN2 alone"),
        ("directions sefa {file} --out out.json", "stylert directions knows StyleGAN2 alone"),
        ("directions styles {file} --names b4.conv1.0 --out out.json", "stylert directions knows StyleGAN2 alone"),
        ("import {file} --out out.safetensors --training run", "training knows StyleGAN2 alone"),
        ("convert {file} --to stylegan3 --out out.pkl", "StyleGAN1"),
        ("convert {file} --to rosinality --out out.pt", "StyleGAN1"),
        ("export {file} --out out --precision fp32,fp8", "StyleGAN1 in fp32, fp16, int8, not in fp8"),
        ("export {file} --out out --style-offsets", "no style offsets for StyleGAN1"),
        ("mix {bundle} --rows 0 --cols 1 --levels fine --out out.png", "a network of 16 px has no fine level"),
        ("generate {bundle} --seeds 0 --out out --backend mnn", "backend mnn runs StyleGAN2, not StyleGAN1"),
        ("generate {bundle} --seeds 0 --out out --precision int8", "has no 'int8' network"),
        ("build {bundle} --backend tensorrt", "tensorrt"),
        ("bench {bundle} --backend mnn --out out", "backend mnn runs StyleGAN2, not StyleGAN1"),
    ],
)
def test_a_command_that_lacks_stylegan1_says_so_in_one_line_and_writes_nothing(
    run: Run, pickle_file: Path, bundle: Bundle, tmp_path: Path, command: str, message: str
) -> None:
    code, out, err = run(*(part.format(file=pickle_file, bundle=bundle.path) for part in command.split()))
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_server_mixes_levels(bundle: Bundle) -> None:
    with Generator.load(bundle) as generator:
        ws = generator.map(z_from_seeds([3, 4], CONFIG.z_dim))
        ws[0, :4] = ws[1, :4]  # two latents for 4 px, and two for 8 px
        expected = generator.synthesize(ws[:1])[0]
    with running([source(bundle, "fp32")]) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post("/v1/images", json={"seeds": [3], "mix": {"coarse": 4}})
        assert answer.status_code == 200
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)


def test_a_model_repository_holds_networks_that_draw_the_images(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "repo", TritonOptions(name="sg1"))
    mapping, synthesis = (
        onnxruntime.InferenceSession(next((tmp_path / "repo" / f"sg1_{part}" / "1").glob("*.onnx")))
        for part in ("mapping", "synthesis")
    )
    psi = np.ones((2, CONFIG.num_ws), np.float32)
    (ws,) = mapping.run(None, {"z": z_from_seeds([0, 1], CONFIG.z_dim), "psi": psi})
    with Generator.load(bundle) as generator:
        np.testing.assert_array_equal(synthesis.run(None, {"ws": ws})[0], generator([0, 1]))


def test_a_manifest_with_another_number_of_latents_or_another_network_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text(encoding="utf-8"))
    for name, change, message in (
        ("a", {"io": {**manifest["io"], "num_ws": 7}}, "a StyleGAN1 network of 16 px has not 7 latents"),
        (
            "b",
            {"model": {**manifest["model"], "network": "stylegan2"}},
            "names a StyleGAN2 network, and has bias_before_blur of a",
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text(json.dumps(manifest | change), encoding="utf-8")
        with pytest.raises(BundleError, match=message):
            Bundle.load(tmp_path / name)
