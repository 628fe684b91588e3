"""The cache of standard models: each version of the sources has its own, and none disturbs another."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stylert.benchmarks import models
from stylert.benchmarks.models import standard_model
from stylert.core.errors import BundleError
from stylert.runtime.bundle import Bundle

ROOT = Path(__file__).parents[2]
DAY = 86400


@pytest.fixture
def exports(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were exported to. Each export is a copy of a small bundle."""
    made: list[Path] = []

    def export(checkpoint: Path, out: Path, *_: Any, **__: Any) -> Bundle:
        made.append(out)
        shutil.copytree(bundle.path, out)
        return Bundle.load(out)

    monkeypatch.setattr("stylert.export.pipeline.export_bundle", export)
    monkeypatch.setattr(models, "write_standard", lambda name, path: path.write_bytes(b"weights"))
    return made


def test_every_source_of_a_bundle_exists() -> None:
    assert all((ROOT / name).exists() for name in models.BUNDLE_SOURCES)


def test_a_model_is_exported_once(exports: list[Path], tmp_path: Path) -> None:
    first = standard_model("sg2-256", ["fp32"], cache=tmp_path)
    again = standard_model("sg2-256", ["int8"], cache=tmp_path)  # the bundle has both
    assert len(exports) == 1
    assert first == again
    assert first.checkpoint is not None
    assert first.checkpoint.is_file()


def test_other_sources_have_another_bundle_and_leave_the_first_one(
    exports: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = standard_model("sg2-256", ["fp32"], cache=tmp_path)
    with monkeypatch.context() as other_checkout:
        other_checkout.setattr(models, "_sources_digest", lambda root: "0123456789ab")
        other = standard_model("sg2-256", ["fp32"], cache=tmp_path)
    assert other.bundle.path != first.bundle.path
    assert other.checkpoint != first.checkpoint
    assert standard_model("sg2-256", ["fp32"], cache=tmp_path) == first
    assert len(exports) == 2


def test_what_was_not_used_for_a_month_is_deleted(exports: list[Path], tmp_path: Path) -> None:
    used = standard_model("sg2-256", ["fp32"], cache=tmp_path).bundle.path.parent
    unused, recent = tmp_path / "models" / "sg2-256-old", tmp_path / "models" / "sg2-256-new"
    for folder, days in ((used, 31), (unused, 31), (recent, 29)):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (time.time() - days * DAY,) * 2)
    standard_model("sg2-256", ["fp32"], cache=tmp_path)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {used.name, recent.name}


def test_the_key_depends_on_content_and_name_of_each_source(tmp_path: Path) -> None:
    for name in models.BUNDLE_SOURCES:
        file = tmp_path / name if name.endswith(".py") else tmp_path / name / "inner" / "a.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1")
    keys = [models._sources_digest(tmp_path)]
    for file in sorted(tmp_path.rglob("*.py")):
        file.write_text("x = 2")
        keys.append(models._sources_digest(tmp_path))
    (tmp_path / "core" / "inner" / "a.py").rename(tmp_path / "core" / "inner" / "b.py")
    keys.append(models._sources_digest(tmp_path))
    assert len(set(keys)) == len(keys)


def test_the_digest_of_the_sources_imports_onnx_runtime_without_its_telemetry() -> None:
    code = "import os\nfrom stylert.benchmarks.models import _version\n_version('onnxruntime')\nprint(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("change", [{"foo": 1}, {"channel_base": 2**40}, {"mapping_layers": "many"}])
def test_a_network_that_stylert_does_not_know_is_one_line(bundle: Bundle, change: dict[str, object]) -> None:
    strange = dataclasses.replace(bundle, model=bundle.model | change)
    with pytest.raises(BundleError, match="describes no network that stylert knows"):
        models.model_facts(strange)
