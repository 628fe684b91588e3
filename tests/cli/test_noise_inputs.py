"""A network that takes noise as inputs runs from Python alone: every command refuses it in one line, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def with_noise(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose network takes noise as inputs."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(checkpoint, folder, ["fp32"], noise="input", backends=["onnxruntime"], verify_seeds=0)


@pytest.mark.parametrize(
    "line",
    [
        "generate BUNDLE --seeds 0 --out out",
        "generate BUNDLE --seeds 0-3 --grid --out out",
        "generate BUNDLE --seeds 0-3 --shards 2 --out out",
        "mix BUNDLE --rows 0 --cols 1 --out out.png",
        "interpolate BUNDLE --seeds 0,1 --out out.webp",
        "serve BUNDLE --port 0",
        "web BUNDLE --out out",
        "deploy triton BUNDLE --out out",
        "deploy ray BUNDLE --out out",
    ],
)
def test_a_command_without_noise_refuses_the_network(line: str, run: Run, with_noise: Bundle, tmp_path: Path) -> None:
    code, _, err = run(*(with_noise.path if word == "BUNDLE" else word for word in line.split()))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert err == (
        f"stylert: bundle {with_noise.path} takes noise as inputs: use it from Python, or export one with --noise const\n"
    )
    assert not list(tmp_path.iterdir())
