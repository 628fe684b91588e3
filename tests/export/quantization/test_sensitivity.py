"""The sensitivity search leaves out as many layers as the PSNR needs, those with most error per saved time first."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from stylert.export.network_plan import ConvForm, LayerPlan
from stylert.export.quantization.calibration import MIN_RGB_RESOLUTION, calibrate
from stylert.export.quantization.quantized_plans import int8_plan
from stylert.export.quantization.sensitivity import (
    FIR_SAVING,
    RGB_SAVING,
    find_sensitive_layers,
    reference_images,
    same_rounding,
)
from stylert.models.checkpoint import GeneratorWeights
from tests.export.networks import random_weights, random_ws


def weights_and_latents() -> tuple[GeneratorWeights, list[np.ndarray]]:
    """A random generator, and 12 ws `[1, num_ws, w_dim]`."""
    weights = random_weights(resolution=32)
    return weights, list(random_ws(weights, 12)[:, None])


def test_no_layer_is_left_out_where_8_bits_suffice() -> None:
    weights, ws = weights_and_latents()
    plan, exact = int8_plan(weights.config, calibrate(weights, ws[:4])), reference_images(weights, ws[4:])
    reports: list[tuple[int, int]] = []
    search = find_sensitive_layers(weights, plan, ws[4:], exact, 1.0, lambda _, done, total: reports.append((done, total)))
    assert not search.higher_precision
    assert search.target_met
    assert search.evaluations == 1
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize("form", ["phases", "transposed"])
def test_a_higher_target_leaves_out_more_layers_and_is_met(form: ConvForm) -> None:
    weights, ws = weights_and_latents()
    plan, exact = int8_plan(weights.config, calibrate(weights, ws[:4]), form), reference_images(weights, ws[4:])
    everything = find_sensitive_layers(weights, plan, ws[4:], exact, 1.0)
    # No network with 8 bits has 70 dB. A higher target may be out of reach even without 8 bits.
    # The reference has another form, and float32 may round one value to the other side of a tie. At this size that
    # leaves 83 dB.
    targets = [everything.psnr_db + 3, 70.0]
    some, most = (find_sensitive_layers(weights, plan, ws[4:], exact, target) for target in targets)
    assert some.target_met
    assert some.psnr_db >= targets[0]
    assert 0 < len(some.higher_precision) <= len(most.higher_precision)
    fir_saving = FIR_SAVING if form == "transposed" else 1  # only this form has its FIR in 8 bits
    time_saved = {spec.name: spec.macs * (fir_saving if spec.up == 2 else 1) for spec in weights.config.layers()}
    errors = [10 ** (-db / 10) / time_saved[name] for name, db in most.higher_precision.items()]
    assert all(a >= 0.95 * b for a, b in pairwise(errors))  # the PSNRs are rounded to 0.01 dB
    assert list(some.higher_precision) == list(most.higher_precision)[: len(some.higher_precision)]
    assert most.target_met
    # The search may end before all layers are out: the rounding of the last one may show in no pixel.
    assert set(most.higher_precision) <= set(plan.quantized_layers)
    assert some.evaluations <= len(plan.quantized_layers) + 1 + len(some.higher_precision)


def test_plans_with_the_same_rounding_are_recognised() -> None:
    weights, ws = weights_and_latents()
    cfg, calibration = weights.config, calibrate(weights, ws[:2])
    plan = int8_plan(cfg, calibration)
    folded = int8_plan(cfg, calibration, min_fold_modulation=0)
    assert same_rounding(plan, replace(folded, rgb_form="matmul_nhwc", per_sample_bias=True))
    assert not same_rounding(plan, int8_plan(cfg, calibration, symmetric=True))
    assert not same_rounding(plan, int8_plan(cfg, calibrate(weights, ws[2:4])))
    assert not same_rounding(plan, plan.without_quantization(plan.quantized_layers[:1]))


def test_a_layer_left_out_keeps_its_form_and_migration() -> None:
    weights, ws = weights_and_latents()
    plan = int8_plan(weights.config, calibrate(weights, ws[:2]))
    spec = next(s for s in weights.config.layers() if plan.layer(s).quantization is not None)
    without = plan.without_quantization([spec.name])
    assert without.layer(spec).quantization is None
    assert without.layer(spec).form == plan.layer(spec).form
    assert without.layer(spec).migration is plan.layer(spec).migration
    assert {s for s in weights.config.layers() if without.layers.get(s.name) is not plan.layers.get(s.name)} == {spec}


def test_torgb_is_ranked_by_the_values_that_it_reads_and_loses_its_norm_with_8_bits() -> None:
    weights = random_weights(resolution=MIN_RGB_RESOLUTION)
    cfg = weights.config
    ws = list(random_ws(weights, 6)[:, None])
    plan = int8_plan(cfg, calibrate(weights, ws[:2]), symmetric=True, rgb_form="conv")
    torgb = cfg.layers()[-1]
    search = find_sensitive_layers(weights, plan, ws[2:], reference_images(weights, ws[2:]), 99.0)
    assert torgb.name in search.higher_precision
    assert plan.without_quantization(search.higher_precision).layer(torgb) == LayerPlan("conv")
    rgb_saved = RGB_SAVING * torgb.in_channels * torgb.resolution**2
    time_saved = {spec.name: spec.macs for spec in cfg.layers()} | {torgb.name: rgb_saved}
    errors = [10 ** (-db / 10) / time_saved[name] for name, db in search.higher_precision.items()]
    assert all(a >= 0.95 * b for a, b in pairwise(errors))
