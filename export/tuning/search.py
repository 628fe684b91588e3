"""Which forms suit a machine: one change at a time to the plan, kept where the whole network becomes faster by it.

A layer alone would be quicker to measure and tell less: what lies around it decides in which layout it gets its data. Every form
computes the same numbers but for rounding, so the search has only time to look at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard, get_args

from stylert.core.paired_timing import paired_ratio
from stylert.core.statistics import Ratio
from stylert.export.plan import Form, Fp8Scale, Int8Steps, LayerPlan, NetworkPlan, RgbForm, without
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec

PLAIN_FORMS: tuple[Form, ...] = ("transposed", "phases", "polyphase")

#: The part of its time that a search leaves for the last comparison, of what it found with what it began with.
LAST_SHARE = 0.2


class Opened(Protocol):
    """A network in some plan, ready to make an image per call."""

    def __call__(self) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Trial:
    """One change: where (a layer, or all of a kind), from which form to which, and the time of the network with it over the time
    without, as measured now or (`ratio` is None) before.
    """

    where: str
    change: str
    speed: float  # 1 where the difference was no more than chance
    ratio: Ratio | None
    taken: bool = False


@dataclass(frozen=True)
class Search:
    """What a search found: the plan, all that it tried, and the plan's time over the default's (None: nothing was changed)."""

    plan: NetworkPlan
    trials: list[Trial]
    against_default: Ratio | None
    complete: bool  # whether every change was tried before the time was over

    @property
    def better(self) -> bool:
        return self.against_default is not None and self.against_default.faster


def search_forms(
    cfg: GeneratorConfig,
    default: NetworkPlan,
    open_plan: Callable[[NetworkPlan], Opened],
    seconds: float,
    seconds_each: float = 3.0,
    remembered: MutableMapping[str, float] | None = None,
    scalable: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Search:
    """Try every form of every layer, those with most arithmetic first, for at most about `seconds`.

    `remembered` holds what changes of a layer's shape did to the time (`Trial.speed`): they are not measured again, and what is
    measured is added. Whatever it holds, what came of it is compared with the default as a whole at the end. `scalable` is
    whether steps of 8 bits may hold styles (`Int8Steps`).
    """
    end = clock() + seconds * (1 - LAST_SHARE)
    memory = {} if remembered is None else remembered
    layers = sorted((s for s in cfg.layers() if s.kind == "conv"), key=lambda s: -s.macs)
    groups: list[LayerSpec | str] = ["convolutions", "torgb", "biases", *layers]
    done, total = 0, sum(len(list(_changes(cfg, default, group, scalable))) for group in groups)
    best, trials, complete = default, [], True
    running = open_plan(best)
    for group in groups:
        plans: dict[Trial, NetworkPlan] = {}
        for where, change, key, plan in _changes(cfg, best, group, scalable):
            progress(min(done, total), total)
            done += 1
            ratio = None
            if key not in memory:
                if clock() >= end:
                    complete = False
                    continue
                with closing(open_plan(plan)) as candidate:
                    ratio = paired_ratio(candidate, running, seconds_each, clock)
                memory[key] = ratio.value if ratio.faster else 1.0
            plans[Trial(where, change, memory[key], ratio)] = plan
        fastest = min(plans, key=lambda t: t.speed, default=None)
        if fastest is not None and fastest.speed < 1:
            running.close()
            best = plans[fastest]
            running = open_plan(best)
        trials += [replace(t, taken=plans[t] is best) for t in plans]
    progress(total, total)
    with closing(running):
        if best is default:
            return Search(default, trials, None, complete)
        with closing(open_plan(default)) as first:
            against = paired_ratio(running, first, max(seconds_each, seconds * LAST_SHARE / 2), clock)
    return Search(best, trials, against, complete)


def _changes(
    cfg: GeneratorConfig, plan: NetworkPlan, group: LayerSpec | str, scalable: bool
) -> Iterator[tuple[str, str, str, NetworkPlan]]:
    """Where, what in words, what to remember it by, and the changed plan."""
    if isinstance(group, LayerSpec):
        old = plan.layer(group)
        shape = f"{group.in_channels} to {group.out_channels} channels, {group.kernel}x{group.kernel}, {group.resolution} px, up {group.up}"
        for new in _other_forms(old, group, scalable):
            change = f"{describe(old)} -> {describe(new)}"
            yield group.name, change, f"{shape}: {change}", replace(plan, layers={**plan.layers, group.name: new})
        return
    convolutions = [s for s in cfg.layers() if s.kind == "conv"]
    if group == "torgb":
        found = _other_rgb_forms(plan, [s for s in cfg.layers() if s.kind == "torgb"])
    elif group == "biases" and any(plan.layer(s).form != "operator" for s in convolutions):
        names = ("constant", "live")
        change = f"{names[plan.live_bias]} -> {names[not plan.live_bias]}"
        found = [(change, replace(plan, live_bias=not plan.live_bias))]
    elif group == "convolutions" and all(plan.layer(s).form == "operator" for s in convolutions):
        found = [(f"operator -> {form}", _in_form(plan, convolutions, form)) for form in PLAIN_FORMS]
    else:
        found = []
    for change, changed in found:
        yield group, change, f"{group} of {cfg.resolution} px, {cfg.macs()} multiplications: {change}", changed


def _in_form(plan: NetworkPlan, specs: Sequence[LayerSpec], form: Form | RgbForm) -> NetworkPlan:
    return replace(plan, layers={**plan.layers, **{s.name: replace(plan.layer(s), form=form) for s in specs}})


def _other_rgb_forms(plan: NetworkPlan, rgbs: Sequence[LayerSpec]) -> list[tuple[str, NetworkPlan]]:
    """Every torgb in one and the same form, none in 8 bits."""
    old = ", ".join(dict.fromkeys(describe(plan.layer(s)) for s in rgbs))
    floating = without(plan, [s.name for s in rgbs])
    return [(f"{old} -> {form}", _in_form(floating, rgbs, form)) for form in get_args(RgbForm) if old != form]


def _other_forms(old: LayerPlan, spec: LayerSpec, scalable: bool) -> list[LayerPlan]:
    if old.form == "operator":
        return [replace(old, form=form) for form in PLAIN_FORMS] if spec.up == 2 else []
    found = []
    sides: list[Int8Steps | Fp8Scale | None] = [old.eight_bit]
    if old.eight_bit is not None:
        # Out of 8 bits a layer is exact; a small one may even be faster.
        sides += [replace(old.eight_bit, output=None), None] if _both_sides(old.eight_bit) else [None]
    if scalable and isinstance(old.eight_bit, Int8Steps):
        sides.append(replace(old.eight_bit, scaled=not old.eight_bit.scaled))
    for side in sides:
        for form in PLAIN_FORMS if spec.up == 2 else (old.form,):
            if form == "polyphase" and _both_sides(side):
                continue  # that step is of the values before the FIR
            new = LayerPlan(form, old.migration, side)
            if (form, side) != (old.form, old.eight_bit):
                found.append(new)
    return found


def _both_sides(eight_bit: Int8Steps | Fp8Scale | None) -> TypeGuard[Int8Steps]:
    return isinstance(eight_bit, Int8Steps) and eight_bit.output is not None


def describe(plan: LayerPlan) -> str:
    """A layer's form in words."""
    if plan.eight_bit is None:
        return plan.form
    kind = "fp8" if isinstance(plan.eight_bit, Fp8Scale) else "int8"
    scaled = isinstance(plan.eight_bit, Int8Steps) and plan.eight_bit.scaled
    return (
        f"{plan.form} {kind}" + (" on both sides" if _both_sides(plan.eight_bit) else "") + (", scaled steps" if scaled else "")
    )
