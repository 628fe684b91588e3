"""Calibration measures the layers that can run in 8 bits, and its scale migration is exact."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from stylert.export.network_plan import ConvForm, LayerPlan, Migration, NetworkPlan
from stylert.export.quantization.calibration import (
    MIN_CHANNELS,
    MIN_RESOLUTION,
    calibrate,
    int8_conv_layers,
    int8_rgb_layers,
)
from stylert.export.synthesis import synthesis_model
from tests.conftest import small_config
from tests.export.networks import random_weights, random_ws, run


@pytest.mark.parametrize("form", get_args(ConvForm))
def test_scale_migration_is_exact(rng: np.random.Generator, form: ConvForm) -> None:
    weights = random_weights()
    layers = {
        s.name: LayerPlan(form, Migration(rng.uniform(0.1, 10, s.in_channels), rng.uniform(0.1, 10, s.out_channels)))
        for s in int8_conv_layers(weights.config)
    }
    ws = rng.standard_normal((2, 6, 20)).astype(np.float32)
    exact = run(synthesis_model(weights, "const", "float"), ws=ws)
    migrated = run(synthesis_model(weights, "const", "float", NetworkPlan(layers)), ws=ws)
    assert np.abs(migrated - exact).max() < 1e-5 * np.abs(exact).max()


def test_exactly_the_eligible_layers_are_calibrated() -> None:
    weights = random_weights(resolution=32)
    names = {s.name for s in int8_conv_layers(weights.config)}
    assert names == {
        s.name
        for s in weights.config.layers()
        if s.kind == "conv"
        and s.resolution >= MIN_RESOLUTION
        and s.in_channels >= MIN_CHANNELS
        and s.out_channels >= MIN_CHANNELS
    }
    assert names
    assert set(calibrate(weights, [random_ws(weights, 1)])) == names
    assert [s.name for s in int8_rgb_layers(small_config(resolution=256))] == ["b128.torgb", "b256.torgb"]


def test_a_network_without_eligible_layers_has_no_calibration() -> None:
    weights = random_weights(resolution=8, channel_max=8, channel_base=64)
    assert calibrate(weights, [np.zeros((1, 4, 20), np.float32)]) == {}
