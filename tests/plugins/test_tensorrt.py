"""The TensorRT plugins with TensorRT 11's own Python bindings, over empty C functions in place of its libraries.

Real here: the bindings' checks of every signature, their shape expressions, type and layout combinations, tactics,
kernel arguments and launch parameters, and NVIDIA's assembler on the PTX.

Unproven until an engine has been built, because the libraries are absent:

- The ONNX parser finds the plugins and gives them their attributes.
- Tensors arrive in the agreed layouts.
- A constant weight is brought to its layout once, and not per inference.
- TensorRT passes arguments as its bindings say.
- The numbers that a GPU computes.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import onnx
import pytest
import torch

from stylert.plugins import tensorrt as plugins
from stylert.plugins.onnx_functions import DOMAIN, function_protos
from stylert.plugins.onnx_nodes import NODES
from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import upfirdn2d

needs_bindings = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_bindings") is None or shutil.which("gcc") is None,
    reason="needs TensorRT's bindings, pip install --no-deps tensorrt-cu13-bindings, and gcc for the stub of its libraries",
)


def ask(cases, architecture="sm_80", **environment):
    """Run cases in a process with the bindings, and return its answer."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    script = Path(__file__).with_name("tensorrt_cases.py")
    request = json.dumps({"architecture": architecture, "cases": cases})
    done = subprocess.run([sys.executable, script], input=request, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def conv_case(rng, up, dtype="float16", **changes):
    n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [6, 90, 90, 40, 40]))
    noise = [int(rng.choice([1, n])), 1, *(int(rng.choice([1, size * up])) for size in (h, w))]
    case = {
        "do": "build", "op": "ModulatedConv2d", "dtype": dtype, "tactic": 2, "layout": 0,
        "dynamic": "x style demod noise" if rng.integers(2) else "",
        "shapes": {
            "x": [int(rng.choice([1, n])), i, h, w], "weight": [o, i, 3, 3], "style": [n, i], "demod": [n, o],
            "noise": noise, "bias": [o], "f": [4, 4],
        },
        "attributes": {"up": up, "alpha": 0.2, "gain": 2**0.5, "clamp": float(rng.choice([0, 256])), "group": o},
    }  # fmt: skip
    return case | changes


def channels_last(dtype, *channels):
    """Whether TensorRT has these channels last without padding (`NvInferRuntime.h`): HWC, HWC8 and HWC16."""
    return all(count % {"float32": 1, "float16": 8, "int8": 16}[dtype] == 0 for count in channels)


def layout_count(case):
    """The pairs of layouts of x and weight that a convolution's node has."""
    weight, dtype = case["shapes"]["weight"], case["dtype"]
    o, i = (weight[1], weight[4]) if len(weight) == 5 else weight[:2]
    images = 1 + channels_last(dtype, i, o)
    return images * (1 + (len(weight) == 4 and channels_last("int8" if case.get("int8") else dtype, i)))


def conv_case_of(rng, up, i, o, *arguments, folded=False, **changes):
    """A case with these channels and any of its layouts."""
    case = conv_case(rng, up, *arguments, **changes)
    shapes = case["shapes"]
    n, noise = shapes["style"][0], shapes["noise"]
    weight = [up * up, o, 3, 3, i] if folded else [o, i, 3, 3]
    shapes |= {"x": [shapes["x"][0], i, *shapes["x"][2:]], "weight": weight, "style": [n, i], "demod": [n, o], "noise": noise}
    shapes["bias"], case["attributes"]["group"] = [o], o
    return case | {"layout": int(rng.integers(layout_count(case)))}


def fir_case(rng, factors, **changes):
    up, down = ([int(v) for v in rng.choice(factors, 2)] for _ in range(2))
    shape = [int(v) for v in rng.integers([1, 1, 4, 4], [5, 70, 40, 40])]
    layout = int(rng.integers(1 + channels_last("float16", shape[1])))
    case = {
        "do": "build", "op": "Upfirdn2d", "dtype": "float16", "tactic": int(rng.integers(1, 3)), "layout": layout,
        "dynamic": "x" if rng.integers(2) else "", "shapes": {"x": shape, "f": [4, 3]},
        "attributes": {
            "up": up, "down": down, "padding": [int(v) for v in rng.integers(0, 4, 4)], "flip": int(rng.integers(2)),
            "gain": 4.0, "group": shape[1],
        },
    }  # fmt: skip
    return case | changes


def assemble(ptx, arch, folder):
    """Assemble the PTX with NVIDIA's assembler, and return its report of registers and stack."""
    from triton.backends.nvidia.compiler import get_ptxas

    source = folder / "kernel.ptx"
    source.write_text(ptx)
    target = re.search(r"^\.target (sm_\w+)", ptx, re.M)[1]  # sm_90a for sm_90.
    assert target.removesuffix("a") == arch
    command = [
        get_ptxas(int(arch.removeprefix("sm_"))).path,
        "-v",
        f"--gpu-name={target}",
        source,
        "-o",
        folder / "kernel.cubin",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@needs_bindings
def test_an_engine_keeps_the_launch_that_the_interpreter_runs(rng, tmp_path):
    arch = str(rng.choice(["sm_80", "sm_86", "sm_89", "sm_90"]))
    cases = [
        conv_case(rng, 1),
        conv_case_of(rng, 1, 16, 24),
        conv_case_of(rng, 2, 24, 16, folded=True),
        conv_case_of(rng, 2, 17, 5, "float32"),
        fir_case(rng, [1, 2]),
        fir_case(rng, [1, 2, 3]),
    ]
    answer = ask(cases, arch, TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert int(answer["version"].split(".")[0]) >= 11
    for case, result in zip(cases, answer["results"], strict=True):
        expected, launch = result["expected"], result["launch"]
        assert launch["grid_x"] == expected["programs"]
        assert launch["block_x"] == expected["threads"]
        assert (launch["grid_y"], launch["grid_z"], launch["block_y"], launch["block_z"]) == (1, 1, 1, 1)
        assert launch["shared_mem"] <= 48 * 1024
        assert result["sizes"] == expected["sizes"]
        assert result["kernel"] == expected["kernel"]

        # The parameters are the inputs in the node's order, the sizes and the output, and nothing else.
        head = result["ptx"][result["ptx"].index(".entry") :]
        parameters = re.findall(r"\.param \.(u64|u32)", head[: head.index(")")])
        assert parameters == ["u64"] * len(case["shapes"]) + ["u32"] * len(result["sizes"]) + ["u64"]
        inputs = expected["arguments"][: len(case["shapes"])]
        assert [name.removesuffix("_ptr").replace("w", "weight") for name in inputs] == list(case["shapes"])
        assert expected["arguments"][-1] == "y_ptr"
        assert re.search(rf"\.reqntid {expected['threads']}\b", result["ptx"])
        assert f".target {arch}" in result["ptx"]
        oldest = {"sm_80": "7.0", "sm_86": "7.1", "sm_89": "7.8", "sm_90": "8.0"}[arch]
        assert f".version {oldest}\n" in result["ptx"]  # so that the engine needs no newer driver than the architecture does
        assemble(result["ptx"], arch, tmp_path)


@needs_bindings
def test_a_second_registration_compiles_for_its_own_architecture(rng, tmp_path):
    """TensorRT keeps the first declaration of a plugin. A process may build for one GPU after the other."""
    case = fir_case(rng, [1, 2])
    cases = [case | {"architecture": architecture} for architecture in ("sm_89", "sm_80")]
    results = ask(cases, "sm_90", TRITON_CACHE_DIR=str(tmp_path))["results"]
    assert [re.search(r"^\.target (\w+)", result["ptx"], re.M)[1] for result in results] == ["sm_89", "sm_80"]


@needs_bindings
@pytest.mark.parametrize("up", [1, 2])
def test_an_int8_weight_gives_int8_products(rng, tmp_path, up):
    """The bindings accept the types, and the PTX has integer products. The weight of a 2x up node is folded ahead."""
    case = conv_case_of(rng, up, int(rng.choice([32, 24, 7])), int(rng.choice([16, 9])), int8=True, folded=up == 2)
    (result,) = ask([case], "sm_80", TRITON_CACHE_DIR=str(tmp_path / "cache"))["results"]
    assert result["layouts"] == layout_count(case)
    assert result["launch"]["grid_x"] == result["expected"]["programs"]
    assert result["sizes"] == result["expected"]["sizes"]
    assert result["launch"]["shared_mem"] <= 48 * 1024
    assert re.search(r"mma\.sync\.aligned\.m16n8k32\S*\.s32\.s8\.s8\.s32", result["ptx"])
    assert "f16.f16" not in result["ptx"]
    assemble(result["ptx"], "sm_80", tmp_path)


@needs_bindings
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_channels_last_layouts_are_those_that_tensorrt_has_for_the_type(rng, tmp_path, dtype):
    """HWC is for 32 bits alone. 16 bits have HWC8 and 8 bits HWC16, which pad channels that do not divide."""
    name = {"float16": "HWC8", "float32": "HWC"}[dtype]
    cases, expected = [], []
    for i, o, int8 in ((8, 16, False), (8, 3, False), (5, 8, False), (32, 8, True), (24, 8, True)):
        cases.append(conv_case_of(rng, 1, i, o, dtype, int8=int8))
        images = ["LINEAR", name] if channels_last(dtype, i, o) else ["LINEAR"]
        weights = ["LINEAR", "HWC16" if int8 else name] if channels_last("int8" if int8 else dtype, i) else ["LINEAR"]
        expected.append([[x, weight, *["LINEAR"] * 5, x] for x in images for weight in weights])
    for channels in (8, 3):
        case = fir_case(rng, [1, 2], dtype=dtype, shapes={"x": [1, channels, 9, 9], "f": [4, 4]})
        case["attributes"] |= {"group": channels}
        cases.append(case)
        images = ["LINEAR", name] if channels_last(dtype, channels) else ["LINEAR"]
        expected.append([[x, "LINEAR", x] for x in images])
    results = ask([case | {"do": "formats"} for case in cases])["results"]
    assert [result["formats"] for result in results] == expected


@needs_bindings
def test_output_shapes_are_those_of_the_reference(rng, tmp_path):
    cases = [conv_case(rng, 2), fir_case(rng, [1, 2])]
    conv, fir = ask(cases, TRITON_CACHE_DIR=str(tmp_path))["results"]
    shapes = cases[0]["shapes"]
    assert conv["shape"] == [shapes["style"][0], shapes["weight"][0], *(2 * size for size in shapes["x"][2:])]
    attributes = {name: value for name, value in cases[1]["attributes"].items() if name != "group"}
    x, f = (torch.zeros(cases[1]["shapes"][name]) for name in "xf")
    assert fir["shape"] == list(upfirdn2d(x, f, **attributes).shape)


@needs_bindings
def test_the_just_in_time_side_computes_the_reference(rng, tmp_path):
    n, i, o, h, w = 2, 3, 5, 4, 3
    shapes = [(1, i, h, w), (o, i, 3, 3), (n, i), (n, o), (1, 1, 2 * h, 1), (o,), (4, 4)]
    operands = [rng.standard_normal(shape) for shape in shapes]
    x, f = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((4, 4))
    conv_formats = [str(rng.choice(["LINEAR", "HWC"])) for _ in range(2)]
    fir_format = str(rng.choice(["LINEAR", "HWC"]))
    cases = [
        {
            "do": "execute", "op": "ModulatedConv2d", "inputs": [a.tolist() for a in operands], "output": [n, o, 2 * h, 2 * w],
            "formats": [*conv_formats, *["LINEAR"] * 5, conv_formats[0]], "tactic": 0,
            "attributes": {"up": 2, "alpha": 0.2, "gain": 1.5, "clamp": 2.0, "group": o},
        },
        {
            "do": "execute", "op": "Upfirdn2d", "inputs": [x.tolist(), f.tolist()], "output": [2, 3, 10, 8],
            "formats": [fir_format, "LINEAR", fir_format], "tactic": 1,
            "attributes": {"up": [2, 2], "down": [1, 1], "padding": [2, 1, 2, 1], "flip": 1, "gain": 4.0, "group": 3},
        },
    ]  # fmt: skip
    conv, fir = ask(cases, TRITON_INTERPRET="1")["results"]
    exact = [torch.from_numpy(a) for a in operands]
    exact[0] = exact[0].expand(n, -1, -1, -1)
    reference = modulated_conv2d(*exact[:6], up=2, f=exact[6], activation="lrelu", gain=1.5, clamp=2.0)
    sizes = [t.abs() for t in exact]
    terms = 1.5 * modulated_conv2d(
        *sizes[:6], up=2, f=sizes[6]
    )  # The terms may cancel. Errors of float32 are of the size of the terms.
    assert ((torch.tensor(conv["y"], dtype=torch.float64) - reference).abs() <= 1e-6 * terms).all()
    operands = torch.from_numpy(x), torch.from_numpy(f)
    reference, terms = (
        upfirdn2d(*pair, 2, padding=[2, 1, 2, 1], flip=True, gain=4.0) for pair in (operands, [t.abs() for t in operands])
    )
    assert ((torch.tensor(fir["y"], dtype=torch.float64) - reference).abs() <= 1e-6 * terms).all()


@needs_bindings
def test_the_plugins_have_the_inputs_and_attributes_of_our_nodes(checkpoint):
    """The ONNX functions declare them, and an exported network has all of them."""
    from stylert.export.synthesis import synthesis_model
    from stylert.models.checkpoint import read_generator

    described = ask([])["plugins"]
    for proto in (proto for proto in function_protos() if proto.name in NODES):
        plugin = described[f"{DOMAIN}::{proto.name}"]
        assert plugin["inputs"] == list(proto.input)
        assert set(plugin["attributes"]) == set(proto.attribute)
    for noise in ("const", "none", "input"):
        nodes = [n for n in synthesis_model(read_generator(checkpoint), noise).graph.node if n.domain == DOMAIN]
        assert {n.op_type for n in nodes} == {"Upfirdn2d", "ModulatedConv2d"}
        for node in nodes:
            plugin = described[f"{DOMAIN}::{node.op_type}"]
            values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert values.pop("plugin_namespace") == DOMAIN.encode()
            assert len(node.input) == len(plugin["inputs"])
            assert all(node.input)
            assert set(values) == set(plugin["attributes"])
            for name, kind in plugin["attributes"].items():
                assert isinstance(values[name], {"<class 'int'>": int, "<class 'float'>": float}.get(kind, list))


@needs_bindings
def test_a_node_that_the_plugins_cannot_serve_is_refused_in_one_line(rng):
    wrong = [
        conv_case(rng, 3), conv_case(rng, 2, dynamic="weight"), fir_case(rng, [1, 2], dynamic="f"),
        conv_case(rng, 1, attributes={"up": 1, "alpha": 0.2, "gain": -1.0, "clamp": 0.0, "group": 4}),
    ]  # fmt: skip
    wrong[0]["shapes"]["noise"] = [1, 1, 1, 1]
    wrong.append(conv_case(rng, 2, int8=True))  # A weight that is not folded.
    even = conv_case(rng, 1)
    even["shapes"]["weight"] = [4, even["shapes"]["x"][1], 2, 2]
    flat = conv_case(rng, 1)
    flat["shapes"]["demod"] = [4]
    wrong += [even, flat]
    for name, value in {"up": [2], "padding": [1, 2, 3], "flip": 2, "gain": float("nan"), "group": 1000}.items():
        case = fir_case(rng, [1, 2])
        case["attributes"] |= {name: value}
        wrong.append(case)
    for name, shape in {"bias": [1000], "f": [3, 3], "noise": [1, 1, 1000, 1], "demod": [1000, 1000]}.items():
        case = conv_case(rng, 2)  # The kernel would read beyond the end of this input.
        case["shapes"] |= {name: shape}
        wrong.append(case)
    for name, value in {"up": 0, "clamp": -1.0, "alpha": float("inf"), "group": 1000}.items():
        case = conv_case(rng, 1)
        case["attributes"] |= {name: value}
        wrong.append(case)
    for case, answer in zip(wrong, ask(wrong)["results"], strict=True):
        assert "error" in answer, case
        assert case["op"] in answer["error"]
        assert "\n" not in answer["error"]


def fake_tensorrt(version, name="tensorrt"):
    """A module in place of TensorRT, with a version."""
    module = types.ModuleType(name)
    module.__version__ = version
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (fake_tensorrt("1.7.1.116", "tensorrt_rtx"), "10.15 or later, not tensorrt_rtx"),
        (fake_tensorrt("11.7.1", "tensorrt_rtx"), "10.15 or later, not tensorrt_rtx"),
        (fake_tensorrt("1.7.1.116"), "10.15 or later"),
        (fake_tensorrt("10.14.1"), "10.15 or later"),
        (fake_tensorrt("dev"), "does not load"),
        (types.ModuleType("tensorrt"), "does not load"),
        (None, "does not load"),
    ],
    ids=["rtx", "future rtx", "rtx under another name", "10.14", "no version", "broken", "missing"],
)
def test_an_installation_without_working_plugins_is_refused(monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", None)
    with pytest.raises(ImportError, match=message) as caught:
        plugins.register("sm_80")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("numpy", ["1.26.4", "2.3.5", "2.4.0", "2.10.1", "3.0.0"])
@pytest.mark.parametrize("version", ["10.15.1.29", "10.16.1.11", "11.1.0.106", "11.2.1.2", "11.4.0.106", "12.0.0"])
def test_a_pair_of_tensorrt_and_numpy_that_cannot_read_attributes_is_refused_in_one_line(monkeypatch, version, numpy):
    """Up to 11.1, the bindings give an array of one number to `int`, which NumPy refuses from 2.4 on."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(version))
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", types.ModuleType("tensorrt.plugin"))
    monkeypatch.setattr("numpy.__version__", numpy)
    if version.startswith(("10.", "11.1")) and not numpy.startswith(("1.", "2.3")):
        with pytest.raises(ImportError, match=r"pip install 'numpy<2.4', or TensorRT 11.2 or later") as caught:
            plugins.load()
        assert "\n" not in str(caught.value)
    else:
        assert plugins.load()[0].__version__ == version


def test_importing_the_module_loads_neither_tensorrt_nor_triton_nor_torch():
    code = "import stylert.plugins.tensorrt, sys; assert not {'tensorrt', 'triton', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hidden_parameters_are_removed_and_refused_if_the_kernel_reads_them():
    from stylert.plugins.triton.compiler import without_hidden_pointers

    ptx = ".visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .u32 k_param_1,\n\t.param .u64 k_param_10\n)\n{ ld [k_param_1]; }"
    assert without_hidden_pointers(ptx, 2).count(".param") == 2
    assert "k_param_10" not in without_hidden_pointers(ptx, 2)
    assert without_hidden_pointers(ptx, 3).count(".param") == 3
    with pytest.raises(ValueError, match="k_param_1"):
        without_hidden_pointers(ptx, 1)


@pytest.mark.long
def test_every_tactic_fits_its_launch_and_spills_nothing(rng, tmp_path):
    """Each tactic is tried with a random architecture, layout and size, and with channels of the presets."""
    for itemsize, dtype in ((2, "float16"), (4, "float32")):
        from stylert.plugins.triton.node_launch import conv_tiles

        for up, folds_fir in ((1, False), (2, False), (2, True)):
            for tactic in conv_tiles(folds_fir, itemsize):
                arch = str(rng.choice(["sm_80", "sm_86", "sm_89", "sm_90"]))
                channels = int(rng.choice([16, 32, 64, 128, 256, 512]))
                case = conv_case_of(rng, up, channels, channels, dtype, folded=not folds_fir, tactic=tactic)
                side = int(rng.choice([4, 64]))  # a sample of 4 px shares its tile with others, and each pixel has a style
                case["shapes"] |= {"x": [2, channels, side, side], "noise": [1, 1, side * up, side * up]}
                case["shapes"] |= {"style": [2, channels], "demod": [2, channels]}
                (result,) = ask([case], arch, TRITON_CACHE_DIR=str(tmp_path))["results"]
                assert tactic in result["tactics"]
                assert result["layouts"] == (4 if folds_fir else 2)
                assert result["launch"]["shared_mem"] <= 48 * 1024
                report = assemble(result["ptx"], arch, tmp_path)
                assert side == 4 or "0 bytes spill stores" in report, (tactic, arch, case)
