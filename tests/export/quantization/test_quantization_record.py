"""The record of 8 bits in a manifest, which may come from others."""

from __future__ import annotations

from typing import Any

import pytest

from stylert.core.errors import BundleError
from stylert.export.quantization.quantization_record import layers_in_8_bits


def test_the_layers_of_a_backend_are_its_own_or_those_of_all() -> None:
    recipe: dict[str, Any] = {"layers": ["a"], "backends": {"openvino": {"layers": ["b"]}}}
    assert layers_in_8_bits(recipe, "openvino") == ["b"]
    assert layers_in_8_bits(recipe, "onnxruntime") == ["a"]
    assert layers_in_8_bits({}, "onnxruntime") is None


@pytest.mark.parametrize(
    "recipe", [{"backends": []}, {"backends": {"onnxruntime": 5}}, {"layers": 5}, {"layers": [5]}, {"layers": "b4.conv1"}]
)
def test_another_form_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="the recipe for onnxruntime in the manifest names no layers"):
        layers_in_8_bits(recipe, "onnxruntime")
