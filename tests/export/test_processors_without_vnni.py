"""Processors whose products of bytes saturate: their network, its accuracy, and the search on the backend that ships."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.runtime import bundle as bundle_module
from stylert.runtime.backends import onnxruntime, openvino_products
from stylert.runtime.backends.openvino import OpenVino, OpenVinoSession
from stylert.runtime.backends.openvino_products import make_products_exact
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import engine_key

pytest.importorskip("openvino")


def test_the_network_for_processors_without_vnni_saturates_on_none(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the layers of the other one, with weights of limited pairs, and OpenVINO takes it on such a processor alone."""
    files = {}
    for saturate in (False, True):
        monkeypatch.setattr(bundle_module, "byte_pairs_saturate", lambda saturate=saturate: saturate)
        files[saturate] = bundle.network("int8", "openvino")
        assert bundle.network("int8", "onnxruntime") == "synthesis.int8.onnx"
    assert files == {False: "synthesis.int8.openvino.onnx", True: "synthesis.int8.openvino-no-vnni.onnx"}
    usual, limited = (onnx.load(bundle.path / file) for file in files.values())
    assert [n.name for n in usual.graph.node] == [n.name for n in limited.graph.node]
    assert make_products_exact(usual, "pairs")
    assert not make_products_exact(limited, "pairs")
    assert make_products_exact(limited, "pairs, transposed") == ["b8.conv0.conv", "b16.conv0.conv"]


@pytest.mark.parametrize("saturate", [False, True])
def test_both_networks_of_openvino_are_verified_on_every_processor(
    checkpoint: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, saturate: bool
) -> None:
    loaded = []
    load = OpenVino.load
    monkeypatch.setattr(
        OpenVino, "load", lambda self, network, options: loaded.append(network.name) or load(self, network, options)
    )
    for module in (bundle_module, openvino_products):
        monkeypatch.setattr(module, "byte_pairs_saturate", lambda: saturate)
    rows = verify(bundle, checkpoint, ["openvino"], ["int8"], seeds=4)
    assert loaded == ["synthesis.int8.openvino.onnx", "synthesis.int8.openvino-no-vnni.onnx"]
    assert [row.backend for row in rows] == ["openvino", "openvino-no-vnni"]


def test_the_search_judges_a_plan_on_the_backend_that_runs_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO returns worse images here. So layers leave 8 bits in its networks alone, and only they miss the promise."""
    run = OpenVinoSession.run
    monkeypatch.setattr(OpenVinoSession, "run", lambda self, inputs: run(self, inputs) // 64 * 64)
    bundle = export_bundle(checkpoint, tmp_path / "b", ["int8"], min_psnr=20)
    recipe = bundle.precisions["int8"].recipe
    assert recipe["layers"]
    assert recipe["backends"]["openvino"]["layers"] == recipe["backends"]["openvino-no-vnni"]["layers"] == []
    rows = verify(bundle, checkpoint, ["onnxruntime", "openvino"], seeds=2)
    assert {row.backend: row.passed for row in rows} == {"onnxruntime": True, "openvino": False, "openvino-no-vnni": False}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_depends_on_whether_products_saturate(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    keys = {}
    for saturate in (False, True):
        for module in (bundle_module, openvino_products, onnxruntime):
            monkeypatch.setattr(module, "byte_pairs_saturate", lambda saturate=saturate: saturate)
        keys[saturate] = [engine_key(bundle, backend, precision) for precision in ("fp32", "int8")]
    assert keys[False][0] == keys[True][0]
    assert keys[False][1].flags != keys[True][1].flags
