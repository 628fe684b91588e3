"""Ahead-of-time compilation of the kernels, in a process where Triton compiles and does not interpret."""

import hashlib
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from stylert.plugins.aot import ARCHITECTURES, compile_all
from stylert.plugins.triton.compiler import OLDEST_PTX, ptx_version
from stylert.plugins.triton.variants import variants

#: The specialisations that take most of a generator's time.
HOT = "modulated_conv2d_*_f16"


def run(*arguments, **environment):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    command = [sys.executable, "-m", "stylert.plugins.aot", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def stated_version(ptx):
    """The version that a file of PTX states, as 80 for 8.0. An older driver refuses the file."""
    return int("".join(re.search(r"^\.version (\d+)\.(\d)$", ptx, re.M).groups()))


def test_the_stated_version_of_ptx_is_the_oldest_that_has_the_architecture(tmp_path):
    """NVIDIA's assembler decides: it takes an empty kernel in this version, and in no earlier one."""
    from triton.backends.nvidia.compiler import get_ptxas

    versions = [*range(70, 79), *range(80, 89), *range(90, 94)]
    for capability, oldest in OLDEST_PTX.items():
        target = f"sm_{capability}{'a' if capability >= 90 else ''}"
        for version in versions[max(0, versions.index(oldest) - 1) :][:2] if oldest > 70 else [oldest]:
            source = tmp_path / "empty.ptx"
            head = f".version {version // 10}.{version % 10}\n.target {target}\n.address_size 64\n"
            source.write_text(head + ".visible .entry k() { ret; }\n")
            assembler = get_ptxas(capability).path
            command = [assembler, f"--gpu-name={target}", source, "-o", tmp_path / "empty.cubin"]
            accepted = subprocess.run(command, capture_output=True).returncode == 0
            assert accepted == (version >= oldest), (target, version)
    assert {int(arch.removeprefix("sm_")) for arch in ARCHITECTURES} <= set(OLDEST_PTX)
    assert ptx_version("sm_90") == 80  # CUDA 12.0
    assert ptx_version("sm_999") is None


@pytest.mark.slow
def test_hot_kernels_compile_without_spills_and_onto_the_tensor_cores(tmp_path):
    done = run("--arch", "sm_80,sm_90", "--out", tmp_path / "aot", "--only", HOT, TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "aot" / "manifest.json").read_text())
    wanted = {(variant.name, arch) for variant in variants() if fnmatch(variant.name, HOT) for arch in ("sm_80", "sm_90")}
    assert {(entry["variant"], entry["arch"]) for entry in manifest["kernels"]} == wanted
    for entry in manifest["kernels"]:
        assert entry["spill_bytes"] == 0
        assert 0 < entry["registers"] <= 255
        instruction = {"sm_80": "mma.sync.aligned.m16n8k16", "sm_90": "wgmma.mma_async.sync.aligned"}[entry["arch"]]
        assert entry["matrix_instructions"] or entry["kernel"] == "modulated_conv2d_sum"  # It adds and does not multiply.
        assert all(name.startswith(instruction) for name in entry["matrix_instructions"])
        ptx = (tmp_path / "aot" / entry["ptx"]).read_text()
        assert f".target {entry['arch']}" in ptx
        assert stated_version(ptx) == {"sm_80": 70, "sm_90": 80}[entry["arch"]]
        assert f".entry {entry['entry']}(" in ptx
        assert hashlib.sha256(ptx.encode()).hexdigest() == entry["ptx_sha256"]
        assert (tmp_path / "aot" / entry["cubin"]).read_bytes()[:4] == b"\x7fELF"
        # TensorRT's ahead-of-time plugins pass inputs, 32-bit integers and outputs, in this order.
        kinds = list(entry["arguments"].values())
        integers = [index for index, kind in enumerate(kinds) if kind == "i32"]
        assert integers == list(range(integers[0], len(kinds) - 1))
        assert kinds[-1].startswith("*")


@pytest.mark.slow
def test_fp8_products_use_tensor_cores_on_the_architectures_that_have_them(tmp_path):
    """An architecture without FP8 in the same call is skipped."""
    cache = str(tmp_path / "cache")
    done = run("--arch", "sm_86,sm_89,sm_90", "--out", tmp_path, "--only", "*_3x3_fp8*", TRITON_CACHE_DIR=cache)
    assert done.returncode == 0, done.stderr
    entries = json.loads((tmp_path / "manifest.json").read_text())["kernels"]
    assert [entry["arch"] for entry in entries] == ["sm_89"] * 2 + ["sm_90"] * 2
    for entry in entries:
        assert entry["spill_bytes"] == 0
        ptx = (tmp_path / entry["ptx"]).read_text()
        assert ("wgmma" in ptx) == (entry["arch"] == "sm_90")
        if entry["arch"] == "sm_90":
            # Hopper sums FP8 in few bits. So the first product of each step must not add to the sum of all steps before it:
            # its operand `scale-d` is 0, and the sum is added in float32.
            scale_d = re.findall(r"wgmma\.mma_async\.[^;]*?,\s*(%p\d+|\d), 1, 1", ptx)
            products_per_step = {"128x128x64": 2, "128x32x32": 1}[entry["tile"]]
            assert scale_d
            assert all(value == "0" for value in scale_d[::products_per_step])
        assert "e4m3.e4m3" in ptx
        assert stated_version(ptx) == 84


@pytest.mark.slow
def test_kernels_compile_with_sizes_of_one_as_constants(tmp_path):
    """A launch makes arguments that are 1 constants of the kernel. Constants are no tensors and have no methods."""
    code = """if True:
        from stylert.plugins.triton.compiler import compile_kernel
        from stylert.plugins.triton.tiles import Tile
        from stylert.plugins.triton.variants import conv_variant, kernels
        tiles = {"": Tile(16, 16, 16, group=3), "_rgb": Tile(16, 16, 16), "_split": Tile(16, 16, 16, splits=4),
                 "_sum": Tile(16, 16, 16, splits=4)}
        for suffix, tile in tiles.items():
            for per_sample, ones in ((True, "n noise_x"), (False, "n noise_n noise_y noise_x h w i o x_n")):
                v = conv_variant("one", "float16", tile, kernel="modulated_conv2d" + suffix, per_sample=per_sample)
                function = kernels()[v.kernel]
                constants = v.constants | {name: 1 for name in ones.split() if name in function.arg_names}
                aligned = [name for name in v.aligned if name not in constants]
                compile_kernel(function, v.pointers, constants, aligned, "sm_80", num_warps=4, num_stages=2)
        """
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path)
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_pointwise_and_resampling_kernels_compile_without_spills(tmp_path):
    for pattern in ("upfirdn2d_*2_*", "bias_act_*", "to_rgb_*"):
        done = run("--arch", "sm_120", "--out", tmp_path, "--only", pattern, TRITON_CACHE_DIR=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        entries = json.loads((tmp_path / "manifest.json").read_text())["kernels"]
        assert all(entry["spill_bytes"] == 0 for entry in entries)
        assert "spill" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--arch", "sm_70"], ["--arch", ""], ["--only", "nothing*"], ["--arch", "sm_80,sm_86", "--only", "*fp8*"]],
    ids=str,
)
def test_a_wrong_argument_prints_one_line_and_exits_2(tmp_path, arguments):
    done = run("--out", tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_compilation(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--out", tmp_path / "file" / "below")
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write into")
    assert len(done.stderr.splitlines()) == 1


def test_compilation_in_the_interpreter_is_refused(tmp_path):
    done = run("--out", tmp_path, TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr


def test_variant_names_are_unique_and_cover_every_operator():
    names = [variant.name for variant in variants()]
    assert len(set(names)) == len(names)
    for operator in ("modulated_conv2d_3x3", "modulated_conv2d_up2", "upfirdn2d_up2", "upfirdn2d_down2", "bias_act", "to_rgb"):
        assert any(name.startswith(operator) for name in names)


def test_an_empty_list_of_architectures_is_refused():
    with pytest.raises(ValueError, match="architecture"):
        compile_all([])
    assert set(ARCHITECTURES) >= {"sm_80", "sm_90", "sm_120"}
