"""The search leaves out what it must, by error per multiplication, and nothing more."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from stylert.export.plan import Form, LayerPlan, without
from stylert.export.quantization.calibration import MIN_RGB_RESOLUTION, calibrate, int8_plan
from stylert.export.quantization.sensitivity import FIR_WORTH, RGB_WORTH, layers_left_out, reference_images, same_rounding
from stylert.models.checkpoint import GeneratorWeights
from tests.conftest import random_arrays, small_config
from tests.draws import fresh


def network() -> tuple[GeneratorWeights, list[np.ndarray]]:
    cfg = small_config(resolution=32)
    weights = GeneratorWeights(cfg, random_arrays(cfg, fresh()), {})
    ws = np.random.standard_normal((12, 1, cfg.num_ws, cfg.w_dim)).astype(np.float32)
    return weights, list(ws)


def test_nothing_is_left_out_where_8_bits_suffice() -> None:
    weights, ws = network()
    plan, exact = int8_plan(weights.config, calibrate(weights, ws[:4])), reference_images(weights, ws[4:])
    steps: list[tuple[int, int]] = []
    found = layers_left_out(weights, plan, ws[4:], exact, 1.0, lambda done, total: steps.append((done, total)))
    assert not found.kept
    assert found.reached
    assert found.evaluations == 1
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("form", ["phases", "transposed"])
def test_a_stricter_demand_leaves_out_more_and_is_met(form: Form) -> None:
    weights, ws = network()
    plan, exact = int8_plan(weights.config, calibrate(weights, ws[:4]), form), reference_images(weights, ws[4:])
    everything = layers_left_out(weights, plan, ws[4:], exact, 1.0)
    # No network of 8 bits has 70 dB. More is not sure without them: at this size, a value that falls to the other side of a tie in
    # another form's float32 leaves 83.
    demands = [everything.psnr_db + 3, 70.0]
    some, all_of_it = (layers_left_out(weights, plan, ws[4:], exact, d) for d in demands)
    assert some.reached
    assert some.psnr_db >= demands[0]
    assert 0 < len(some.kept) <= len(all_of_it.kept)
    upsampled = FIR_WORTH if form == "transposed" else 1  # whose FIR is in 8 bits, too
    worth = {spec.name: spec.macs * (upsampled if spec.up == 2 else 1) for spec in weights.config.layers()}
    errors = [10 ** (-db / 10) / worth[name] for name, db in all_of_it.kept.items()]
    assert all(a >= 0.95 * b for a, b in pairwise(errors))  # what is kept is rounded to 0.01 dB
    assert list(some.kept) == list(all_of_it.kept)[: len(some.kept)]
    assert all_of_it.reached
    quantised = [n for n, p in plan.layers.items() if p.eight_bit is not None]
    # What remains may be exact: a layer whose rounding no pixel shows.
    assert set(all_of_it.kept) <= set(quantised)
    assert some.evaluations <= len(quantised) + 1 + len(some.kept)


def test_plans_that_round_alike_are_known_by_what_they_round() -> None:
    weights, ws = network()
    cfg, calibration = weights.config, calibrate(weights, ws[:2])
    plan = int8_plan(cfg, calibration)
    assert same_rounding(plan, replace(int8_plan(cfg, calibration, min_scaled=0), rgb="matmul_nhwc", live_bias=True))
    assert not same_rounding(plan, int8_plan(cfg, calibration, symmetric=True))
    assert not same_rounding(plan, int8_plan(cfg, calibrate(weights, ws[2:4])))
    quantised = [n for n, p in plan.layers.items() if p.eight_bit is not None]
    assert not same_rounding(plan, without(plan, quantised[:1]))


def test_a_layer_left_out_keeps_its_form_and_scales() -> None:
    weights, ws = network()
    plan = int8_plan(weights.config, calibrate(weights, ws[:2]))
    spec = next(s for s in weights.config.layers() if plan.layer(s).eight_bit is not None)
    left = without(plan, [spec.name])
    assert left.layer(spec).eight_bit is None
    assert left.layer(spec).migration is plan.layer(spec).migration
    assert {s for s in weights.config.layers() if left.layers.get(s.name) is not plan.layers.get(s.name)} == {spec}


def test_torgb_is_weighed_by_what_it_reads_and_leaves_its_norm_with_8_bits() -> None:
    cfg = small_config(resolution=MIN_RGB_RESOLUTION)
    weights = GeneratorWeights(cfg, random_arrays(cfg, fresh()), {})
    ws = list(np.random.standard_normal((6, 1, cfg.num_ws, cfg.w_dim)).astype(np.float32))
    plan = int8_plan(cfg, calibrate(weights, ws[:2]), symmetric=True, rgb="conv")
    torgb = cfg.layers()[-1]
    found = layers_left_out(weights, plan, ws[2:], reference_images(weights, ws[2:]), 99.0)
    assert torgb.name in found.kept
    left = without(plan, list(found.kept)).layer(torgb)
    assert left == LayerPlan("conv")
    worth = {s.name: s.macs for s in cfg.layers()} | {torgb.name: RGB_WORTH * torgb.in_channels * torgb.resolution**2}
    errors = [10 ** (-db / 10) / worth[name] for name, db in found.kept.items()]
    assert all(a >= 0.95 * b for a, b in pairwise(errors))
