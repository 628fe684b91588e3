"""On machines with known times, the search finds the fastest forms, ends in its time, and returns no slower plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError
from stylert.export.network_plan import (
    ConvForm,
    Int8Quantization,
    LayerPlan,
    NetworkPlan,
    QuantParams,
    conv_layers,
    float32_plan,
    rgb_layers,
)
from stylert.export.tuning.search import PLAIN_FORMS, WINOGRAD_FORMS, search_forms
from tests.conftest import small_config

CFG = small_config(resolution=32)
FLOAT_FORMS = (*PLAIN_FORMS, *WINOGRAD_FORMS)
UPSAMPLING = [spec for spec in CFG.layers() if spec.up == 2]


class Machine:
    """A clock, and networks that take as long on it as `cost` says.

    Args:
        cost: The seconds of one call with a plan.
        loading: The seconds to load a network.
    """

    def __init__(self, cost: Callable[[NetworkPlan], float], loading: float = 0.0) -> None:
        self.cost, self.loading = cost, loading
        self.now, self.opened, self.open_now = 0.0, 0, 0

    def clock(self) -> float:
        return self.now

    def open(self, plan: NetworkPlan) -> TimedNetwork:
        self.now += self.loading
        self.opened += 1
        self.open_now += 1
        return TimedNetwork(self, self.cost(plan))


class TimedNetwork:
    def __init__(self, machine: Machine, seconds: float) -> None:
        self.machine, self.seconds = machine, seconds

    def __call__(self) -> None:
        self.machine.now += self.seconds

    def close(self) -> None:
        self.machine.open_now -= 1


def random_cost(rng: np.random.Generator) -> Callable[[NetworkPlan], float]:
    """Times per layer and form. One form of each layer is clearly the fastest."""
    forms: list[ConvForm] = ["operator", *FLOAT_FORMS]
    seconds = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    times = {spec.name: dict(zip(forms, rng.permutation(seconds), strict=True)) for spec in UPSAMPLING}
    return lambda plan: 0.01 * (10 + sum(times[spec.name][plan.layer(spec).form] for spec in UPSAMPLING))


def with_form(plan: NetworkPlan, name: str, form: ConvForm) -> NetworkPlan:
    return NetworkPlan({**plan.layers, name: LayerPlan(form)}, rgb_form=plan.rgb_form)


def int8_layers() -> dict[str, LayerPlan]:
    """Every convolution as four phases, in int8 on both sides."""
    int8 = Int8Quantization(QuantParams(0.1), QuantParams(0.1))
    return {spec.name: LayerPlan("phases", None, int8) for spec in conv_layers(CFG)}


def folded_layers(plan: NetworkPlan) -> list[str]:
    return [name for name, layer in plan.layers.items() if layer.int8 is not None and layer.int8.fold_modulation]


def test_the_fastest_form_of_every_layer_is_found_whatever_the_default(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    for default in (float32_plan(CFG, "transposed"), float32_plan(CFG, "polyphase")):
        machine = Machine(cost)
        search = search_forms(CFG, default, machine.open, 1e6, clock=machine.clock)
        fastest = [
            min(FLOAT_FORMS, key=lambda form, name=spec.name: cost(with_form(default, name, form)))  # type: ignore[misc]
            for spec in UPSAMPLING
        ]
        assert [search.plan.layer(spec).form for spec in UPSAMPLING] == fastest
        assert search.complete
        assert machine.open_now == 0, "every network must be closed"
        if search.ratio_to_default is not None:
            assert search.faster == (cost(search.plan) < cost(default))
            assert np.isclose(search.ratio_to_default.value, cost(search.plan) / cost(default))


def test_operators_are_left_only_where_something_is_faster(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    machine = Machine(cost)
    search = search_forms(CFG, NetworkPlan(), machine.open, 1e6, clock=machine.clock)
    assert cost(search.plan) <= cost(NetworkPlan())
    slow = Machine(lambda plan: 1.0 + bool(plan.layers))
    unchanged = search_forms(CFG, NetworkPlan(), slow.open, 1e6, clock=slow.clock)
    assert unchanged.plan.layers == {}
    assert unchanged.ratio_to_default is None
    assert not unchanged.faster


def test_winograd_is_tried_in_every_float32_layer_and_in_no_other() -> None:
    plans: list[NetworkPlan] = []

    def cost(plan: NetworkPlan) -> float:
        plans.append(plan)
        return 0.01 * (1 + sum(layer.form != "winograd_4x4" for layer in plan.layers.values()))

    layers = {spec.name: LayerPlan("transposed") for spec in conv_layers(CFG)}
    for default in (NetworkPlan(layers), NetworkPlan(layers, float16=True), NetworkPlan(int8_layers())):
        machine = Machine(cost)
        search = search_forms(CFG, default, machine.open, 1e6, clock=machine.clock)
        forms = {search.plan.layer(spec).form for spec in conv_layers(CFG)}
        assert forms == ({"transposed"} if default.float16 else {"winograd_4x4"})
    machine = Machine(lambda plan: 0.01 * (2 - (plan.layers.get("b32.conv1") == LayerPlan("transposed"))))
    search = search_forms(CFG, NetworkPlan(), machine.open, 1e6, clock=machine.clock)
    assert search.plan.layers["b32.conv1"] == LayerPlan("transposed"), "a direct convolution instead of an operator node"


def test_equal_times_change_nothing() -> None:
    machine = Machine(lambda plan: 0.01)
    default = float32_plan(CFG, "phases")
    search = search_forms(CFG, default, machine.open, 1e6, clock=machine.clock)
    assert search.plan is default
    assert not any(trial.taken for trial in search.trials)
    assert search.trials


def test_the_search_ends_in_its_time(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    default = float32_plan(CFG, "transposed")
    machine = Machine(cost, loading=1.0)
    search = search_forms(CFG, default, machine.open, 20.0, seconds_each=2.0, clock=machine.clock)
    assert not search.complete
    # One comparison may still run at the deadline. The final one has a share of its own.
    assert machine.now <= 20.0 + 2 * (1.0 + 2.0 + 25 * cost(default))
    assert cost(search.plan) <= cost(default)


def test_known_changes_are_not_measured_again_but_the_result_is(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    default, known = float32_plan(CFG, "transposed"), dict[str, float]()
    machine, second = Machine(cost), Machine(cost)
    search = search_forms(CFG, default, machine.open, 1e6, known_ratios=known, clock=machine.clock)
    again = search_forms(CFG, default, second.open, 1e6, known_ratios=known, clock=second.clock)
    assert again.plan == search.plan
    assert all(trial.ratio is None for trial in again.trials)
    assert second.opened < machine.opened
    # On a machine that has changed, every known gain is a loss. The final comparison shows it.
    changed = Machine(lambda plan: 1 / cost(plan))
    wrong = search_forms(CFG, default, changed.open, 1e6, known_ratios=dict(known), clock=changed.clock)
    assert wrong.plan == search.plan
    if wrong.ratio_to_default is not None:
        assert not wrong.faster


def test_folded_modulation_is_tried_where_a_runtime_accepts_it() -> None:
    def cost(plan: NetworkPlan) -> float:
        in_float = sum(layer.quantization is None for layer in plan.layers.values())
        return 0.01 * (20 - len(folded_layers(plan)) + 5 * in_float)

    for accepted in (False, True):
        machine = Machine(cost)
        default = NetworkPlan(int8_layers())
        search = search_forms(CFG, default, machine.open, 1e6, can_fold_modulation=accepted, clock=machine.clock)
        assert folded_layers(search.plan) == (list(default.layers) if accepted else [])


def test_8_bit_layers_are_tried_in_float_and_never_as_polyphase_with_a_quantised_output() -> None:
    plans: list[NetworkPlan] = []

    def cost(plan: NetworkPlan) -> float:
        plans.append(plan)
        return 0.01 * (1 + len(plan.quantized_layers))

    machine = Machine(cost)
    search = search_forms(CFG, NetworkPlan(int8_layers()), machine.open, 1e6, clock=machine.clock)
    assert not search.plan.quantized_layers
    for plan in plans:
        for layer in plan.layers.values():
            assert not (layer.form == "polyphase" and layer.int8 is not None and layer.int8.output is not None)


@pytest.mark.parametrize("error", [BackendError, BundleError])
def test_a_change_that_the_backend_refuses_is_passed_over(rng: np.random.Generator, error: type[Exception]) -> None:
    refused: ConvForm = "polyphase"
    cost = random_cost(rng)
    machine = Machine(cost)

    def open_plan(plan: NetworkPlan) -> TimedNetwork:
        if any(layer.form == refused for layer in plan.layers.values()):
            raise error("no such kernel")
        return machine.open(plan)

    ratios: dict[str, float] = {}
    search = search_forms(CFG, float32_plan(CFG, "phases"), open_plan, 1e6, known_ratios=ratios, clock=machine.clock)
    assert search.complete
    tried = [trial for trial in search.trials if f"-> {refused}" in trial.change]
    assert {trial.where for trial in tried} >= {spec.name for spec in UPSAMPLING}
    assert all(trial.refused == "no such kernel" and not trial.taken for trial in tried)
    assert not any(f"-> {refused}" in key for key in ratios)
    others = [form for form in FLOAT_FORMS if form != refused]
    best = [min(others, key=lambda form: cost(with_form(search.plan, s.name, form))) for s in UPSAMPLING]
    assert [search.plan.layer(spec).form for spec in UPSAMPLING] == best
    assert machine.open_now == 0


def test_torgb_layers_change_together_and_leave_8_bits() -> None:
    rgbs = rgb_layers(CFG)
    default = NetworkPlan({rgbs[-1].name: LayerPlan("conv", None, Int8Quantization(QuantParams(0.1)))}, rgb_form="conv")
    for fastest in ("conv", "matmul", "matmul_nhwc"):
        cost = lambda plan: 0.01 * (2 - all(plan.layer(s) == LayerPlan(fastest) for s in rgbs))  # noqa: B023, E731
        machine = Machine(cost)
        search = search_forms(CFG, default, machine.open, 1e6, clock=machine.clock)
        assert {search.plan.layer(spec) for spec in rgbs} == {LayerPlan(fastest)}
        assert [trial.change for trial in search.trials if trial.taken] == [f"conv, conv int8 -> {fastest}"]
