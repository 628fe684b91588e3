"""StyleGAN3 through the commands: from a pickle to pictures and back, and one line for each command that lacks it."""

from __future__ import annotations

import io
from dataclasses import replace
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
from tests.models.importers.stylegan3_files import stylegan3_file
from tests.models.stylegan3.tiny import randomized, tiny_config
from tests.runtime.serving.conftest import running, source

CONFIG = tiny_config(channel_base=512, channel_max=16)


@pytest.fixture(scope="module")
def pickle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stylegan3_file(tmp_path_factory.mktemp("sg3") / "sg3.pkl", randomized(CONFIG, 1))


@pytest.fixture(scope="module")
def bundle(pickle_file: Path) -> Bundle:
    return export_bundle(pickle_file, pickle_file.parent / "bundle")


def test_a_pickle_becomes_pictures_whose_recipes_make_them_again(run: Run, pickle_file: Path, tmp_path: Path) -> None:
    code, out, _ = run("import", pickle_file, "--out", "sg3.safetensors")
    assert code == 0
    assert "stylegan3, pickle" in out
    assert "16 px, separable filters" in out
    code, out, _ = run("export", "sg3.safetensors", "--out", "bundle", "--verify-seeds", 2)
    assert code == 0
    assert "fp16 on onnxruntime" in out
    assert run("generate", "bundle", "--seeds", "0-1", "--out", "pictures")[0] == 0
    assert run("mix", "bundle", "--rows", "0-1", "--cols", "2", "--levels", "0-2", "--out", "mix.png")[0] == 0
    for file in ("pictures/seed0001.png", "mix.png"):
        assert run("again", file, "--bundle", "bundle", "--out", "again.png")[0] == 0
        np.testing.assert_array_equal(np.asarray(Image.open("again.png")), np.asarray(Image.open(file)))
    assert run("verify", "bundle", "--against", "sg3.safetensors", "--backend", "onnxruntime", "--seeds", 2)[0] == 0
    assert run("card", "bundle", "--out", "card.md")[0] == 0
    assert "StyleGAN3 generator without labels" in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tune {bundle} --against {file}", "stylert tune knows StyleGAN2 alone"),
        ("project a.png --checkpoint {file} --out projected", "stylert project knows StyleGAN2 alone"),
        ("web {bundle} --out out", "stylert web knows StyleGAN2 alone"),
        ("watermark train {file} --out out.safetensors", "stylert watermark knows StyleGAN2 alone"),
        ("metrics {file} --data {file}", "stylert metrics knows StyleGAN2 alone"),
        ("directions sefa {file} --out out.json", "stylert directions knows StyleGAN2 alone"),
        ("directions pca {file} --out out.json", "stylert directions knows StyleGAN2 alone"),
        ("directions styles {file} --names b4.conv1.0 --out out.json", "stylert directions knows StyleGAN2 alone"),
        ("import {file} --out out.safetensors --training run", "training knows StyleGAN2 alone"),
        ("export {file} --out out --precision fp32,int8", "StyleGAN3 in fp32, fp16, not in int8"),
        ("export {file} --out out --style-offsets", "no style offsets for StyleGAN3"),
        ("export {file} --out out --noise input", "StyleGAN3 has no noise"),
        ("mix {bundle} --rows 0 --cols 1 --out out.png", "StyleGAN3 has no coarse level: name its latents, such as 0-3"),
        ("generate {bundle} --seeds 0 --out out --backend mnn", "backend mnn runs StyleGAN2, not StyleGAN3"),
        ("generate {bundle} --seeds 0 --out out --precision int8", "has no 'int8' network"),
        (
            "build {bundle} --backend tensorrt-rtx --target sm_89",
            "backend tensorrt-rtx runs StyleGAN1, StyleGAN2, not StyleGAN3",
        ),
        ("bench {bundle} --backend mnn --out out", "backend mnn runs StyleGAN2, not StyleGAN3"),
    ],
)
def test_a_command_that_lacks_stylegan3_says_so_in_one_line_and_writes_nothing(
    run: Run, pickle_file: Path, bundle: Bundle, tmp_path: Path, command: str, message: str
) -> None:
    code, out, err = run(*(part.format(file=pickle_file, bundle=bundle.path) for part in command.split()))
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_server_draws_seeds_and_refuses_levels_by_name(bundle: Bundle) -> None:
    with Generator.load(bundle) as generator:
        expected = generator([3])[0]
    with running([source(bundle, "fp32")]) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post("/v1/images", json={"seeds": [3]})
        assert answer.status_code == 200
        refused = client.post("/v1/images", json={"seeds": [3], "mix": {"coarse": 4}})
    assert "StyleGAN3 has no coarse level" in refused.text
    assert refused.status_code == 400
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)


def test_a_model_repository_holds_networks_that_draw_the_images(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "repo", TritonOptions(name="sg3"))
    mapping, synthesis = (
        onnxruntime.InferenceSession(next((tmp_path / "repo" / f"sg3_{part}" / "1").glob("*.onnx")))
        for part in ("mapping", "synthesis")
    )
    psi = np.ones((2, CONFIG.num_ws), np.float32)
    (ws,) = mapping.run(None, {"z": z_from_seeds([0, 1], CONFIG.z_dim), "psi": psi})
    with Generator.load(bundle) as generator:
        np.testing.assert_array_equal(synthesis.run(None, {"ws": ws})[0], generator([0, 1]))


def test_a_manifest_with_another_network_or_number_of_latents_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    for name, changes in (
        ("a", {"model": {**bundle.model, "network": "stylegan9"}}),
        ("b", {"num_ws": 67}),
        ("c", {"num_ws": 3}),
    ):
        (tmp_path / name).mkdir()
        replace(bundle, path=tmp_path / name, **changes).save()
        with pytest.raises(
            BundleError, match=r"network is one of stylegan1, stylegan2, stylegan3|a StyleGAN3 network of 16 px has not"
        ):
            Bundle.load(tmp_path / name)
