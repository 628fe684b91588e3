"""The search against networks whose time is known: it finds the fastest forms, in its time, and never ends with a slower plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stylert.export.plan import Form, Int8Steps, LayerPlan, NetworkPlan, Step, plain_plan
from stylert.export.tuning.search import search_forms
from tests.conftest import small_config

CFG = small_config(resolution=32)
UP = [s for s in CFG.layers() if s.up == 2]


class Machine:
    """A clock, and networks that take as long on it as `cost` says."""

    def __init__(self, cost: Callable[[NetworkPlan], float], loading: float = 0.0) -> None:
        self.cost, self.loading, self.now, self.opened, self.open_now = cost, loading, 0.0, 0, 0

    def __call__(self) -> float:
        return self.now

    def open(self, plan: NetworkPlan) -> Network:
        self.now += self.loading
        self.opened += 1
        self.open_now += 1
        return Network(self, self.cost(plan))


class Network:
    def __init__(self, machine: Machine, seconds: float) -> None:
        self.machine, self.seconds = machine, seconds

    def __call__(self) -> None:
        self.machine.now += self.seconds

    def close(self) -> None:
        self.machine.open_now -= 1


def random_cost(rng: np.random.Generator) -> Callable[[NetworkPlan], float]:
    """Times per layer and form, with a clear winner for each."""
    forms: list[Form] = ["operator", "transposed", "phases", "polyphase"]
    times = {s.name: dict(zip(forms, rng.permutation([1.0, 1.5, 2.0, 3.0]), strict=True)) for s in UP}
    return lambda plan: 0.01 * (10 + sum(times[s.name][plan.layer(s).form] for s in UP))


def test_the_fastest_plain_form_of_every_layer_is_found_whatever_the_default(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    for default in (plain_plan(CFG, "transposed"), plain_plan(CFG, "polyphase")):
        machine = Machine(cost)
        found = search_forms(CFG, default, machine.open, 1e6, clock=machine)
        plain = [min(("transposed", "phases", "polyphase"), key=lambda f, s=s: cost(with_form(default, s.name, f))) for s in UP]
        assert [found.plan.layer(s).form for s in UP] == plain
        assert found.complete
        assert machine.open_now == 0  # every network was closed
        if found.against_default is not None:
            assert found.better == (cost(found.plan) < cost(default))
            assert np.isclose(found.against_default.value, cost(found.plan) / cost(default))


def with_form(plan: NetworkPlan, name: str, form: Form) -> NetworkPlan:
    return NetworkPlan({**plan.layers, name: LayerPlan(form)}, rgb=plan.rgb)


def test_operators_are_left_only_where_something_is_faster(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    machine = Machine(cost)
    found = search_forms(CFG, NetworkPlan(), machine.open, 1e6, clock=machine)
    assert cost(found.plan) <= cost(NetworkPlan())
    slow = Machine(lambda plan: 1.0 + bool(plan.layers))
    unchanged = search_forms(CFG, NetworkPlan(), slow.open, 1e6, clock=slow)
    assert unchanged.plan.layers == {}
    assert unchanged.against_default is None
    assert not unchanged.better


def test_equal_times_change_nothing() -> None:
    machine = Machine(lambda plan: 0.01)
    default = plain_plan(CFG, "phases")
    found = search_forms(CFG, default, machine.open, 1e6, clock=machine)
    assert found.plan is default
    assert not any(t.taken for t in found.trials)
    assert found.trials


def test_the_search_ends_in_its_time(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    default = plain_plan(CFG, "transposed")
    machine = Machine(cost, loading=1.0)
    found = search_forms(CFG, default, machine.open, 20.0, seconds_each=2.0, clock=machine)
    assert not found.complete
    # One comparison may be under way when its time is over; the last one has its own share.
    assert machine.now <= 20.0 + 2 * (1.0 + 2.0 + 25 * cost(default))
    assert cost(found.plan) <= cost(default)


def test_what_is_remembered_of_a_shape_is_not_measured_again_but_the_result_is(rng: np.random.Generator) -> None:
    cost = random_cost(rng)
    default, memory = plain_plan(CFG, "transposed"), dict[str, float]()
    first = search_forms(CFG, default, (machine := Machine(cost)).open, 1e6, remembered=memory, clock=machine)
    again = search_forms(CFG, default, (second := Machine(cost)).open, 1e6, remembered=memory, clock=second)
    assert again.plan == first.plan
    assert all(t.ratio is None for t in again.trials)
    assert second.opened < machine.opened
    # A machine that has changed since: every remembered gain is a loss now, and the last comparison finds out.
    slower = Machine(lambda plan: 1 / cost(plan))
    wrong = search_forms(CFG, default, slower.open, 1e6, remembered=dict(memory), clock=slower)
    assert wrong.plan == first.plan
    if wrong.against_default is not None:
        assert not wrong.better


def test_steps_that_hold_styles_are_tried_where_a_runtime_takes_them() -> None:
    steps = Int8Steps(Step(0.1), Step(0.1))
    layers = {s.name: LayerPlan("phases", None, steps) for s in CFG.layers() if s.kind == "conv"}
    scaled = lambda plan: [n for n, p in plan.layers.items() if isinstance(p.eight_bit, Int8Steps) and p.eight_bit.scaled]  # noqa: E731
    for scalable in (False, True):
        cost = lambda plan: 0.01 * (20 - len(scaled(plan)) + 5 * sum(p.eight_bit is None for p in plan.layers.values()))  # noqa: E731
        machine = Machine(cost)
        found = search_forms(CFG, NetworkPlan(layers), machine.open, 1e6, scalable=scalable, clock=machine)
        assert scaled(found.plan) == (list(layers) if scalable else [])


def test_layers_of_8_bits_are_tried_without_and_never_folded_behind_a_step_of_unfiltered_values() -> None:
    steps = Int8Steps(Step(0.1), Step(0.1))
    layers = {s.name: LayerPlan("phases", None, steps) for s in CFG.layers() if s.kind == "conv"}
    seen: list[NetworkPlan] = []

    def cost(plan: NetworkPlan) -> float:
        seen.append(plan)
        return 0.01 * (1 + sum(p.eight_bit is not None for p in plan.layers.values()))

    machine = Machine(cost)
    found = search_forms(CFG, NetworkPlan(layers), machine.open, 1e6, clock=machine)
    assert all(p.eight_bit is None for p in found.plan.layers.values())
    for plan in seen:
        for layer in plan.layers.values():
            assert not (layer.form == "polyphase" and layer.eight_bit is not None and layer.eight_bit.output is not None)


def test_torgb_layers_change_together_and_leave_8_bits() -> None:
    rgbs = [s for s in CFG.layers() if s.kind == "torgb"]
    default = NetworkPlan({rgbs[-1].name: LayerPlan("conv", None, Int8Steps(Step(0.1)))}, rgb="conv")
    for fastest in ("conv", "matmul", "matmul_nhwc"):
        cost = lambda plan: 0.01 * (2 - all(plan.layer(s) == LayerPlan(fastest) for s in rgbs))  # noqa: B023, E731
        machine = Machine(cost)
        found = search_forms(CFG, default, machine.open, 1e6, clock=machine)
        assert {found.plan.layer(s) for s in rgbs} == {LayerPlan(fastest)}
        assert [t.change for t in found.trials if t.taken] == [f"conv, conv int8 -> {fastest}"]
