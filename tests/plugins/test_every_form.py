"""Every form of the two operators equals the definition, which SciPy computes in float64.

Factors, paddings, sizes and filters differ on the two axes, so that no form can exchange them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import scipy.signal
import torch

from stylert.plugins import ops
from stylert.plugins.fir_folding import fold
from stylert.plugins.reference import modulated_conv2d as conv_reference
from stylert.plugins.reference import upfirdn2d as fir_reference
from stylert.plugins.shapes import Resampling
from stylert.runtime.backends.torch_network.graph import TorchGraph
from tests.draws import draws_of
from tests.plugins.onnx_models import by_evaluator, by_onnxruntime, by_openvino, one_node_model

Array = npt.NDArray[Any]

#: Allowed error of float32 arithmetic, relative to the largest sum of the absolute values of the terms.
TOLERANCE = 3e-6


# --- the cases of Upfirdn2d ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fir:
    """One call of Upfirdn2d. Its attributes are those of the ONNX node."""

    up: tuple[int, int] = (1, 1)
    down: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    taps: tuple[int, int] = (3, 4)
    size: tuple[int, int] = (5, 7)
    flip: int = 0
    gain: float = 1.5
    channels: int = 2

    @property
    def attributes(self) -> dict[str, Any]:
        values = {"up": list(self.up), "down": list(self.down), "padding": list(self.padding)}
        return values | {"flip": self.flip, "gain": self.gain, "group": self.channels}

    @property
    def inputs(self) -> dict[str, Array]:
        """x, of two samples, and a filter without any symmetry."""
        rng = draws_of(f"{self.size} {self.taps} {self.channels}")
        x, f = rng.standard_normal((2, self.channels, *self.size)), rng.standard_normal(self.taps)
        return {"x": x.astype(np.float32), "f": f.astype(np.float32)}


FIR_CASES = {
    "up_x": Fir(up=(1, 2), padding=(1, 2, 3, 0)),
    "up_y": Fir(up=(3, 1), padding=(2, 0, 1, 4), taps=(4, 2)),
    "down_x": Fir(down=(1, 3), padding=(0, 3, 2, 1), size=(5, 9)),
    "down_y": Fir(down=(2, 1), padding=(3, 1, 0, 2), taps=(2, 5)),
    "up_y_down_x": Fir(up=(2, 1), down=(1, 2), padding=(1, 0, 2, 3), flip=1),
    "up_x_down_y": Fir(up=(1, 3), down=(2, 1), padding=(0, 2, 1, 5), gain=-0.7),
    "up_3_2_down_2_3": Fir(up=(3, 2), down=(2, 3), padding=(4, 1, 2, 3), taps=(5, 3), flip=1),
    "up_2_1_down_3_2": Fir(up=(2, 1), down=(3, 2), padding=(1, 4, 3, 2), size=(6, 5), channels=1),
    "crop_and_pad": Fir(up=(2, 3), down=(3, 1), padding=(-1, 4, 2, -2), taps=(3, 2)),
    "crop_all_sides": Fir(up=(3, 2), down=(1, 2), padding=(-1, -2, -4, -3), taps=(2, 3), flip=1),
    "row_filter": Fir(up=(1, 2), padding=(-1, 2, 3, 1), taps=(1, 5)),
    "column_filter": Fir(down=(3, 1), padding=(3, 1, 2, -1), taps=(5, 1), channels=5),
    "upsampling_of_stylegan2": Fir(up=(2, 2), padding=(2, 1, 2, 1), taps=(4, 4), gain=4.0, channels=4),
}


def fir_by_scipy(case: Fir, absolute: bool = False) -> Array:
    """One axis after the other, with each row of the filter as a separable filter.

    `absolute` returns the sum of the absolute values of the terms.
    """
    x, f = (a.astype(np.float64) for a in case.inputs.values())
    if absolute:
        x, f = np.abs(x), np.abs(f)
    gain = abs(case.gain) if absolute else case.gain
    f = f[::-1, ::-1] if case.flip else f
    top, bottom, left, right = case.padding
    rows = [
        axis_by_scipy(
            axis_by_scipy(x, unit, case.up[0], case.down[0], top, bottom, 2), row, case.up[1], case.down[1], left, right, 3
        )
        for unit, row in zip(np.eye(len(f)), f, strict=True)
    ]
    return gain * np.sum(rows, axis=0)


def axis_by_scipy(x: Array, taps: Array, up: int, down: int, before: int, after: int, axis: int) -> Array:
    """The part of SciPy's full convolution that the padding leaves. Outside of it all values are zero."""
    full = np.moveaxis(scipy.signal.upfirdn(taps, x, up, 1, axis=axis), axis, -1)
    start = len(taps) - 1 - before
    positions = np.arange(start, start + x.shape[axis] * up + before + after - len(taps) + 1, down)
    inside = (positions >= 0) & (positions < full.shape[-1])
    return np.moveaxis(full[..., np.where(inside, positions, 0)] * inside, -1, axis)


# --- the cases of ModulatedConv2d ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One call of ModulatedConv2d. Its attributes are those of the ONNX node, besides the kernel's width `k`."""

    up: int = 1
    k: int = 3
    alpha: float = 0.2
    gain: float = math.sqrt(2)
    clamp: float = 0.0
    size: tuple[int, int] = (3, 5)
    samples: int = 2
    samples_of_x: int = 2
    noise: tuple[int, int, int] = (1, 0, 0)
    taps: int = 4

    @property
    def attributes(self) -> dict[str, Any]:
        return {"up": self.up, "alpha": self.alpha, "gain": self.gain, "clamp": self.clamp, "group": 4}

    @property
    def inputs(self) -> dict[str, Array]:
        """Operands without any symmetry. `noise` says which of its axes are whole: samples, height, width."""
        n, i, o, (h, w) = self.samples, 3, 4, self.size
        whole = n, h * self.up, w * self.up
        noise_n, noise_h, noise_w = (size if is_whole else 1 for size, is_whole in zip(whole, self.noise, strict=True))
        shapes = {
            "x": (self.samples_of_x, i, h, w),
            "weight": (o, i, self.k, self.k),
            "style": (n, i),
            "demod": (n, o),
            "noise": (noise_n, 1, noise_h, noise_w),
            "bias": (o,),
            "f": (self.taps, self.taps),
        }
        rng = draws_of(str(shapes))
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


LAYER_CASES = {
    "k1": Layer(k=1, alpha=1.0, gain=1.0, noise=(0, 0, 0)),
    "k1_clamp": Layer(k=1, clamp=0.6, size=(1, 4), noise=(1, 1, 1)),
    "k3": Layer(gain=0.7, clamp=1.1, noise=(0, 1, 0)),
    "k3_slope": Layer(alpha=0.45, gain=1.3, clamp=0.9, size=(6, 2), noise=(1, 0, 1)),
    "k3_negative_slope": Layer(alpha=-0.3, size=(4, 1), noise=(0, 0, 1)),
    "k3_shared_x": Layer(samples=3, samples_of_x=1, size=(2, 5), noise=(1, 1, 0)),
    "k5": Layer(k=5, clamp=2.5, size=(5, 3), noise=(0, 1, 1)),
    "k5_slope_0": Layer(k=5, alpha=0.0, size=(2, 3)),
    "up2": Layer(up=2, size=(2, 3), noise=(1, 1, 1)),
    "up2_clamp": Layer(up=2, gain=0.8, clamp=0.7, size=(3, 2), noise=(0, 1, 0)),
    "up2_linear": Layer(up=2, alpha=1.0, gain=2.5, size=(1, 3), noise=(0, 0, 1)),
    "up2_slope_shared_x": Layer(up=2, alpha=0.6, clamp=1.5, samples_of_x=1, size=(2, 1), noise=(1, 0, 0)),
}

#: Kernels and filters that the operator defines in Python, but not as an ONNX node.
PYTHON_LAYER_CASES = {
    "up2_k1": Layer(up=2, k=1, size=(4, 3)),
    "up2_k5": Layer(up=2, k=5, size=(2, 5), clamp=2.0),
    "up2_3_taps": Layer(up=2, taps=3, size=(3, 4)),
    "up2_k5_6_taps": Layer(up=2, k=5, taps=6, alpha=1.0, size=(4, 3), noise=(1, 1, 1)),
}


def layer_by_scipy(case: Layer, absolute: bool = False) -> Array:
    """The paper's form: the weights of each sample are modulated and demodulated.

    `absolute` returns the sum of the absolute values of the terms.
    """
    operands = [a.astype(np.float64) for a in case.inputs.values()]
    x, weight, style, demod, noise, bias, f = (np.abs(a) for a in operands) if absolute else operands
    x = np.broadcast_to(x, (case.samples, *x.shape[1:]))
    weights = weight * style[:, None, :, None, None] * demod[:, :, None, None, None]
    y = np.array(
        [[sum(map(plane, sample, w, [f] * 3, [case.up] * 3)) for w in ws] for sample, ws in zip(x, weights, strict=True)]
    )
    y = y + noise + bias[:, None, None]
    if absolute:
        return case.gain * max(1.0, abs(case.alpha)) * y
    y = case.gain * np.where(y > 0, y, case.alpha * y)
    return np.clip(y, -case.clamp, case.clamp) if case.clamp else y


def plane(x: Array, w: Array, f: Array, up: int) -> Array:
    """One input channel's share of one output channel."""
    if up == 1:
        return np.asarray(scipy.signal.correlate2d(x, w, mode="same"))
    inserted = np.zeros((2 * x.shape[0] - 1, 2 * x.shape[1] - 1))
    inserted[::2, ::2] = x
    full = scipy.signal.convolve2d(scipy.signal.convolve2d(inserted, w), 4 * f)
    first = len(f) - 1 - math.ceil((len(f) + 1 - len(w)) / 2)
    return np.asarray(full[first : first + 2 * x.shape[0], first : first + 2 * x.shape[1]])


# --- the forms -------------------------------------------------------------------------------------------------------


def tensors(inputs: dict[str, Array], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.from_numpy(a).to(dtype) for a in inputs.values()]


@pytest.fixture(params=["onnx_evaluator", "onnxruntime", "openvino", "torch_graph", "torch_graph_kernels"])
def run_node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Array]:
    """A function that runs an ONNX node. Weights and filters are constants, as in an exported file."""
    form = request.param
    if form == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("onnxscript")
    if form == "torch_graph_kernels":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")

    def run(op: str, case: Fir | Layer) -> Array:
        constants = [name for name in case.inputs if name in ("weight", "bias", "f")]
        model = one_node_model(op, case.inputs, constants=constants, **case.attributes)
        if form == "onnx_evaluator":
            return by_evaluator(model, case.inputs)
        if form == "onnxruntime":
            return by_onnxruntime(model, case.inputs)
        if form == "openvino":
            return by_openvino(model, case.inputs, tmp_path)
        onnx.save(model, tmp_path / "model.onnx")
        names = [value.name for value in model.graph.input]
        graph = TorchGraph(tmp_path / "model.onnx", "cpu")
        return graph({name: torch.from_numpy(case.inputs[name]) for name in names}).numpy()

    return run


@pytest.fixture(params=["cpu", "op", "kernels_nchw", "kernels_nhwc"])
def run_ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Array]:
    """A function that calls an operator in Python: the reference, the custom op, and the op on the kernels."""
    form = request.param
    if form.startswith("kernels"):
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    if form == "op":
        monkeypatch.setattr(ops, "has_kernels", lambda x: True)

    def run(function: Callable[..., torch.Tensor], x: torch.Tensor, *operands: Any, **attributes: Any) -> Array:
        x = x.contiguous(memory_format=torch.channels_last) if form == "kernels_nhwc" else x
        return function(x, *operands, **attributes).numpy()

    return run


def assert_right(y: Array, expected: Array, terms: Array) -> None:
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE * terms.max())


# --- Upfirdn2d -------------------------------------------------------------------------------------------------------

fir_cases = pytest.mark.parametrize("case", FIR_CASES.values(), ids=FIR_CASES)


@fir_cases
def test_upfirdn2d_in_pytorch_equals_scipy(case: Fir, run_ops: Callable[..., Array]) -> None:
    x, f = tensors(case.inputs)
    y = run_ops(ops.upfirdn2d, x, f, case.up, case.down, case.padding, bool(case.flip), case.gain)
    assert_right(y, fir_by_scipy(case), fir_by_scipy(case, absolute=True))


@fir_cases
def test_the_reference_of_upfirdn2d_equals_scipy_in_float64(case: Fir) -> None:
    x, f = tensors(case.inputs, torch.float64)
    y = fir_reference.upfirdn2d(x, f, case.up, case.down, case.padding, bool(case.flip), case.gain)
    np.testing.assert_allclose(y.numpy(), fir_by_scipy(case), rtol=0, atol=1e-13 * fir_by_scipy(case, absolute=True).max())


@fir_cases
def test_an_onnx_node_of_upfirdn2d_equals_scipy(case: Fir, run_node: Callable[..., Array]) -> None:
    assert_right(run_node("Upfirdn2d", case), fir_by_scipy(case), fir_by_scipy(case, absolute=True))


@fir_cases
@pytest.mark.parametrize("nhwc", [True, False], ids=["nhwc", "nchw"])
def test_the_launch_of_an_upfirdn2d_node_equals_scipy(case: Fir, nhwc: bool) -> None:
    pytest.importorskip("triton")
    from stylert.plugins.triton.node_launch import run, upfirdn2d_node

    expected = fir_by_scipy(case)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    x, f = tensors(case.inputs)
    spec = Resampling.of(case.up, case.down, case.padding, bool(case.flip), case.gain)
    y = torch.full(expected.shape, math.nan).contiguous(memory_format=layout)
    run(upfirdn2d_node(x.shape, f.shape, spec, nhwc=nhwc, itemsize=4, num_warps=4), [x.contiguous(memory_format=layout), f], y)
    assert_right(y.numpy(), expected, fir_by_scipy(case, absolute=True))


@pytest.mark.slow
@fir_cases
def test_the_tensorrt_plugin_of_upfirdn2d_equals_scipy(case: Fir) -> None:
    y = tensorrt_results()[case]
    assert_right(np.array(y, np.float32), fir_by_scipy(case), fir_by_scipy(case, absolute=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda case: replace(case, up=case.up[::-1]),
        lambda case: replace(case, down=case.down[::-1]),
        lambda case: replace(case, padding=(*case.padding[2:], *case.padding[:2])),
        lambda case: replace(case, padding=tuple(case.padding[side] for side in (0, 2, 1, 3))),
        lambda case: replace(case, padding=tuple(case.padding[side] for side in (1, 0, 3, 2))),
        lambda case: replace(case, up=case.up[::-1], down=case.down[::-1], padding=(*case.padding[2:], *case.padding[:2])),
        lambda case: replace(case, flip=1 - case.flip),
        lambda case: replace(case, gain=abs(case.gain) + 1),
    ],
    ids=["up", "down", "axes of the padding", "order of ONNX", "sides", "all axes", "flip", "gain"],
)
def test_each_wrong_order_of_an_attribute_changes_the_result_of_several_cases(change: Callable[[Fir], Fir]) -> None:
    noticed = 0
    for case in FIR_CASES.values():
        try:
            y = fir_by_scipy(change(case))
        except (IndexError, ValueError):  # a padding that leaves no output
            continue
        expected = fir_by_scipy(case)
        noticed += y.shape != expected.shape or not np.allclose(y, expected)
    assert noticed >= 5


# --- ModulatedConv2d -------------------------------------------------------------------------------------------------

layer_cases = pytest.mark.parametrize("case", LAYER_CASES.values(), ids=LAYER_CASES)
#: The cases whose slope has a name in Python.
named = {name: case for name, case in (LAYER_CASES | PYTHON_LAYER_CASES).items() if case.alpha in (0.2, 1.0)}


def python_arguments(case: Layer, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The operands and the attributes of a call in Python. A batch does not share `x` there."""
    x, *operands, f = tensors(case.inputs, dtype)
    attributes = {"up": case.up, "f": f if case.up == 2 else None, "gain": case.gain, "clamp": case.clamp or None}
    attributes["activation"] = "linear" if case.alpha == 1 else "lrelu"
    return [x.expand(case.samples, -1, -1, -1), *operands], attributes


@pytest.mark.parametrize("case", named.values(), ids=named)
def test_modulated_conv2d_in_pytorch_equals_scipy(case: Layer, run_ops: Callable[..., Array]) -> None:
    operands, attributes = python_arguments(case)
    y = run_ops(ops.modulated_conv2d, *operands, **attributes)
    assert_right(y, layer_by_scipy(case), layer_by_scipy(case, absolute=True))


@pytest.mark.parametrize("case", named.values(), ids=named)
def test_the_reference_of_modulated_conv2d_equals_scipy_in_float64(case: Layer) -> None:
    operands, attributes = python_arguments(case, torch.float64)
    y = conv_reference.modulated_conv2d(*operands, **attributes)
    np.testing.assert_allclose(y.numpy(), layer_by_scipy(case), rtol=0, atol=1e-13 * layer_by_scipy(case, absolute=True).max())


@pytest.mark.parametrize(
    "case", [case for case in named.values() if case.up == 2], ids=[n for n, c in named.items() if c.up == 2]
)
def test_the_folded_phases_equal_scipy(case: Layer) -> None:
    case = replace(case, alpha=1.0, gain=1.0, clamp=0.0)
    (x, weight, style, demod, noise, bias), attributes = python_arguments(case, torch.float64)
    phases = fold(weight, attributes["f"])
    y = torch.empty(layer_by_scipy(case).shape, dtype=torch.float64)
    for phase, kernel in enumerate(phases):
        part = torch.nn.functional.conv2d(x * style[:, :, None, None], kernel, padding=kernel.shape[-1] // 2)
        y[:, :, phase // 2 :: 2, phase % 2 :: 2] = part
    y = y * demod[:, :, None, None] + noise + bias[:, None, None]
    np.testing.assert_allclose(y.numpy(), layer_by_scipy(case), rtol=0, atol=1e-13 * layer_by_scipy(case, absolute=True).max())


@layer_cases
def test_an_onnx_node_of_modulated_conv2d_equals_scipy(case: Layer, run_node: Callable[..., Array]) -> None:
    assert_right(run_node("ModulatedConv2d", case), layer_by_scipy(case), layer_by_scipy(case, absolute=True))


@pytest.mark.parametrize(("number", "case"), list(enumerate(LAYER_CASES.values())), ids=LAYER_CASES)
def test_the_launch_of_a_modulated_conv2d_node_equals_scipy(number: int, case: Layer) -> None:
    pytest.importorskip("triton")
    from stylert.plugins.triton.node_launch import modulated_conv2d_node, run
    from stylert.plugins.triton.tiles import Tile

    def in_layout(t: torch.Tensor, channels_last: bool) -> torch.Tensor:
        return t.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    nhwc, ohwi = bool(number & 1), bool(number & 2)  # The table visits all four pairs of layouts.
    expected = layer_by_scipy(case)
    x, weight, *rest = tensors(case.inputs)
    numbers = {name: value for name, value in case.attributes.items() if name != "group"}
    shapes = x.shape, weight.shape, rest[0].shape, rest[2].shape
    launch = modulated_conv2d_node(*shapes, **numbers, nhwc=nhwc, ohwi=ohwi, tile=Tile(16, 16, 16))
    y = in_layout(torch.full(expected.shape, math.nan), nhwc)
    run(launch, [in_layout(x, nhwc), in_layout(weight, ohwi), *rest], y)
    assert_right(y.numpy(), expected, layer_by_scipy(case, absolute=True))


@pytest.mark.slow
@layer_cases
def test_the_tensorrt_plugin_of_modulated_conv2d_equals_scipy(case: Layer) -> None:
    y = tensorrt_results()[case]
    assert_right(np.array(y, np.float32), layer_by_scipy(case), layer_by_scipy(case, absolute=True))


# --- TensorRT plugins ------------------------------------------------------------------------------------------------


@cache
def tensorrt_results() -> dict[Fir | Layer, Any]:
    """The result of every case by the just-in-time side of the plugins, in one process with TensorRT's bindings."""
    if importlib.util.find_spec("tensorrt_bindings") is None or shutil.which("gcc") is None:
        pytest.skip("needs TensorRT's bindings, pip install --no-deps tensorrt-cu13-bindings, and gcc")
    requests = dict(_plugin_requests())
    message = json.dumps({"architecture": "sm_80", "cases": list(requests.values())})
    command = [sys.executable, Path(__file__).with_name("tensorrt_cases.py")]
    done = subprocess.run(command, input=message, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout[done.stdout.index("{") :])["results"]
    return {case: answer["y"] for case, answer in zip(requests, answers, strict=True)}


def _plugin_requests() -> Iterator[tuple[Fir | Layer, dict[str, Any]]]:
    for number, case in enumerate([*FIR_CASES.values(), *LAYER_CASES.values()]):
        layout = ["LINEAR", "HWC"][number % 2]
        op, expected = ("Upfirdn2d", fir_by_scipy(case)) if isinstance(case, Fir) else ("ModulatedConv2d", layer_by_scipy(case))
        others = ["LINEAR"] * (len(case.inputs) - 1)
        yield case, {
            "do": "execute", "op": op, "inputs": [a.tolist() for a in case.inputs.values()], "output": list(expected.shape),
            "formats": [layout, *others, layout], "tactic": 0, "attributes": case.attributes,
        }  # fmt: skip
