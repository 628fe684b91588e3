"""The search for the fastest plan on one machine: one change at a time, timed in the whole network.

A change stays when it makes the whole network faster. A layer alone would be quicker to time, but its neighbours decide
in which layout it gets its data. All forms compute the same images, so only the time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, get_args

from stylert.core.errors import BackendError, BundleError
from stylert.core.paired_timing import paired_ratio
from stylert.core.progress import Progress
from stylert.core.statistics import Ratio
from stylert.export.network_plan import (
    ConvForm,
    Fp8Quantization,
    Int8Quantization,
    LayerPlan,
    NetworkPlan,
    RgbForm,
    conv_layers,
    rgb_layers,
)
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec

PLAIN_FORMS: tuple[ConvForm, ...] = ("transposed", "phases", "polyphase")

#: The plain form of a layer without upsampling, for which all of `PLAIN_FORMS` are the same.
DIRECT: ConvForm = "transposed"

#: Forms of float32 layers in float32 networks.
WINOGRAD_FORMS: tuple[ConvForm, ...] = ("winograd_2x2", "winograd_4x4")

#: Groups of layers that change together, before each convolution changes by itself.
GROUPS = ("convolutions", "torgb", "biases")

#: The part of the time that is kept for the final comparison with the default.
FINAL_SHARE = 0.2


class Network(Protocol):
    """A loaded network. Each call makes an image."""

    def __call__(self) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Trial:
    """One change that was tried.

    Attributes:
        where: The layer, or one of `GROUPS`.
        change: The former and the new form, in words.
        time_ratio: The time of the network with the change over the time without; 1 where the difference was within
            chance.
        ratio: The measurement, or None where `time_ratio` comes from an earlier search.
        taken: Whether the search went on with the change.
        refused: Why the backend did not run the network with the change, or None.
    """

    where: str
    change: str
    time_ratio: float
    ratio: Ratio | None
    taken: bool = False
    refused: str | None = None


@dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes:
        plan: The fastest plan.
        trials: All changes that were tried, in order.
        ratio_to_default: The time of `plan` over that of the default, or None where no change was taken.
        complete: Whether there was time to try every change.
    """

    plan: NetworkPlan
    trials: list[Trial]
    ratio_to_default: Ratio | None
    complete: bool

    @property
    def faster(self) -> bool:
        """Whether the plan is faster than the default, by more than chance explains."""
        return self.ratio_to_default is not None and self.ratio_to_default.faster


def search_forms(
    cfg: GeneratorConfig,
    default: NetworkPlan,
    open_plan: Callable[[NetworkPlan], Network],
    seconds: float,
    seconds_each: float = 3.0,
    known_ratios: MutableMapping[str, float] | None = None,
    can_fold_modulation: bool = False,
    progress: Progress | None = None,
    stage: str = "search forms",
    clock: Callable[[], float] = time.perf_counter,
) -> Search:
    """Try every form of every layer, those with most arithmetic first. A change that the backend refuses is passed over.

    Args:
        cfg: The generator's configuration.
        default: The plan to start from.
        open_plan: Loads the network of a plan.
        seconds: About the time for the whole search.
        seconds_each: The time for one comparison.
        known_ratios: Time ratios of earlier searches on this machine, by a description of layer and change. Such a
            change is not measured again, and new measurements are added. The result is compared with the default in any
            case.
        can_fold_modulation: Whether the runtime accepts `Int8Quantization.fold_modulation`.
        progress: Called before each change, with `stage`.
        stage: The text that the progress shows.
        clock: The clock, in seconds.
    """
    deadline = clock() + seconds * (1 - FINAL_SHARE)
    if known_ratios is None:
        known_ratios = {}
    groups: list[LayerSpec | str] = [*GROUPS, *sorted(conv_layers(cfg), key=lambda spec: -spec.macs)]
    done, total = 0, sum(len(list(_changes(cfg, default, group, can_fold_modulation))) for group in groups)

    def report() -> None:
        if progress is not None:
            progress(stage, min(done, total), total)

    best, trials, complete = default, [], True
    network = open_plan(best)
    for group in groups:
        tried: list[tuple[Trial, NetworkPlan]] = []
        for change in _changes(cfg, best, group, can_fold_modulation):
            report()
            done += 1
            ratio = None
            if change.key not in known_ratios:
                if clock() >= deadline:
                    complete = False
                    continue
                try:
                    with closing(open_plan(change.plan)) as candidate:
                        ratio = paired_ratio(candidate, network, seconds_each, clock)
                except (BackendError, BundleError) as e:  # libraries that refuse a network call it damaged
                    tried.append((Trial(change.where, change.text, 1.0, None, refused=str(e)), change.plan))
                    continue
                known_ratios[change.key] = ratio.value if ratio.faster else 1.0
            tried.append((Trial(change.where, change.text, known_ratios[change.key], ratio), change.plan))
        if tried:
            fastest, plan = min(tried, key=lambda pair: pair[0].time_ratio)
            if fastest.time_ratio < 1:
                network.close()
                best = plan
                network = open_plan(best)
        trials += [replace(trial, taken=plan is best) for trial, plan in tried]
    done = total
    report()
    with closing(network):
        if best is default:
            return Search(default, trials, None, complete)
        with closing(open_plan(default)) as default_network:
            ratio = paired_ratio(network, default_network, max(seconds_each, seconds * FINAL_SHARE / 2), clock)
    return Search(best, trials, ratio, complete)


@dataclass(frozen=True)
class _Change:
    """A changed plan.

    Users' caches know a change by its `key`, which contains `text`. So the wording of both stays as it is.
    """

    where: str
    text: str
    key: str
    plan: NetworkPlan


def _changes(cfg: GeneratorConfig, plan: NetworkPlan, group: LayerSpec | str, can_fold_modulation: bool) -> Iterator[_Change]:
    if isinstance(group, LayerSpec):
        old = plan.layer(group)
        channels = f"{group.in_channels} to {group.out_channels} channels"
        shape = f"{channels}, {group.kernel}x{group.kernel}, {group.resolution} px, up {group.up}"
        for new in _other_layer_plans(old, group, can_fold_modulation, plan.float16):
            text = f"{describe(old)} -> {describe(new)}"
            changed = replace(plan, layers={**plan.layers, group.name: new})
            yield _Change(group.name, text, f"{shape}: {text}", changed)
    else:
        network = f"{group} of {cfg.resolution} px, {cfg.macs()} multiplications"
        for text, changed in _group_changes(cfg, plan, group):
            yield _Change(group, text, f"{network}: {text}", changed)


def _group_changes(cfg: GeneratorConfig, plan: NetworkPlan, group: str) -> list[tuple[str, NetworkPlan]]:
    """Changes of a whole group, each with its text."""
    convs = conv_layers(cfg)
    if group == "torgb":
        return _other_rgb_forms(plan, rgb_layers(cfg))
    if group == "biases" and any(not plan.layer(spec).is_operator for spec in convs):
        text = "live -> constant" if plan.per_sample_bias else "constant -> live"
        return [(text, replace(plan, per_sample_bias=not plan.per_sample_bias))]
    if group == "convolutions" and all(plan.layer(spec).form == "operator" for spec in convs):
        return [(f"operator -> {form}", _with_form(plan, convs, form)) for form in PLAIN_FORMS]
    return []


def _other_rgb_forms(plan: NetworkPlan, rgbs: Sequence[LayerSpec]) -> list[tuple[str, NetworkPlan]]:
    """Every torgb in one form, and none in 8 bits."""
    old = ", ".join(dict.fromkeys(describe(plan.layer(spec)) for spec in rgbs))
    in_float = plan.without_quantization([spec.name for spec in rgbs])
    return [(f"{old} -> {form}", _with_form(in_float, rgbs, form)) for form in get_args(RgbForm) if old != form]


def _with_form(plan: NetworkPlan, specs: Sequence[LayerSpec], form: ConvForm | RgbForm) -> NetworkPlan:
    return replace(plan, layers={**plan.layers, **{spec.name: replace(plan.layer(spec), form=form) for spec in specs}})


def _other_layer_plans(old: LayerPlan, spec: LayerSpec, can_fold_modulation: bool, float16: bool) -> list[LayerPlan]:
    """All other forms and quantisations of one convolution."""
    winograd = () if float16 else WINOGRAD_FORMS
    plain = PLAIN_FORMS if spec.up == 2 else (DIRECT if old.is_operator else old.form,)
    if old.form == "operator":
        # A runtime chooses the form of an operator node, so the plain form of a layer without upsampling is a change, too.
        return [replace(old, form=form) for form in (*(() if float16 and spec.up == 1 else plain), *winograd)]
    plans = []
    for quantization in _other_quantizations(old, can_fold_modulation):
        for form in plain if quantization is not None else (*plain, *winograd):
            new = LayerPlan(form, old.migration, quantization)
            # The output's parameters are of values before the FIR, which polyphase does not compute.
            impossible = form == "polyphase" and _has_quantized_output(new)
            unchanged = (new.form, new.quantization) == (old.form, old.quantization)
            if not impossible and not unchanged:
                plans.append(new)
    return plans


def _other_quantizations(old: LayerPlan, can_fold_modulation: bool) -> list[Int8Quantization | Fp8Quantization | None]:
    """The present quantisation, and those with less rounding or with folded modulation."""
    quantizations: list[Int8Quantization | Fp8Quantization | None] = [old.quantization]
    if old.int8 is not None and old.int8.output is not None:
        quantizations.append(replace(old.int8, output=None))
    if old.quantization is not None:
        quantizations.append(None)  # a small layer may even be faster in float
    if old.int8 is not None and can_fold_modulation:
        quantizations.append(replace(old.int8, fold_modulation=not old.int8.fold_modulation))
    return quantizations


def _has_quantized_output(plan: LayerPlan) -> bool:
    return plan.int8 is not None and plan.int8.output is not None


def describe(plan: LayerPlan) -> str:
    """A layer's form and quantisation, in words. The text is part of `_Change.key`."""
    if plan.quantization is None:
        return plan.form
    text = f"{plan.form} {'int8' if plan.int8 is not None else 'fp8'}"
    if _has_quantized_output(plan):
        text += " on both sides"
    if plan.int8 is not None and plan.int8.fold_modulation:
        text += ", scaled steps"
    return text
