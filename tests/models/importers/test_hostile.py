"""Hostile and damaged files are refused in one line. Nothing runs, nothing is written, and the file bounds the memory."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.cli.pipeline.importing import run_import
from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import read_generator
from stylert.models.importers import import_checkpoint as imported
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError
from stylert.models.importers.import_checkpoint import import_bytes, import_checkpoint

many_examples = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
LAYOUTS = ["official", "rosinality", "rosinality-legacy", "tensorflow"]


def refusal(path: Path) -> str:
    """Import a file that must be refused, and return the message. Checks that nothing is written and memory is bounded."""
    out = path.parent / "model.safetensors"
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as e:
            run_import(path, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(e.value)
    assert "\n" not in message
    assert str(path) in message
    assert not out.exists()
    assert peak < 40 * path.stat().st_size + 20 * 2**20
    return message


@pytest.fixture
def write(tmp_path, foreign):
    """`write(value, kind, protocol)` writes a pickle, plain or in a container of torch."""

    def make(value: Any, kind: str = "pickle", protocol: int = 4) -> Path:
        data = foreign.PickleWriter(protocol).dumps(value)
        path = tmp_path / "hostile.bin"
        if kind == "pickle":
            path.write_bytes(data)
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as z:
                z.writestr("archive/data.pkl", data)
        else:
            legacy = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
            path.write_bytes(legacy + data + pickle.dumps([], 2))
        return path

    return make


@pytest.fixture(params=LAYOUTS)
def whole(request, nets, foreign, tmp_path):
    """A small valid file of each layout."""
    g, raw, d = nets(z_dim=7, channel_base=16, channel_max=3)
    path = tmp_path / "whole.bin"
    match request.param:
        case "official":
            return foreign.official_file(path, g, raw, d)
        case "tensorflow":
            return foreign.tensorflow_file(path, g, raw, d)
        case _:
            d, g = (nets({"mbstd_group_size": 4}, z_dim=7)[i] for i in (2, 0))
            return foreign.rosinality_file(path, g, None, d, legacy=request.param.endswith("legacy"))


# --- payloads ------------------------------------------------------------------------------------------------------

CALLS = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "getattr"), ("builtins", "__import__"), ("importlib", "import_module"), ("torch", "load"), ("torch.hub", "load"),
    ("torch.serialization", "load"), ("pickle", "loads"), ("numpy", "load"), ("operator", "attrgetter"), ("copyreg", "_reconstructor"),
    ("torch_utils.persistence", "_src_to_module"), ("dnnlib.util", "get_obj_by_name"), ("stylert.cli.main", "main"),
    ("a\nb", "system\x1b[2J"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
@pytest.mark.parametrize(("module", "name"), CALLS)
def test_no_name_is_ever_called(write, foreign, tmp_path, kind, module, name):
    payload = foreign.Call(module, name, (f"touch {tmp_path}/marker",))
    for value in (payload, {"G_ema": payload}, {"g_ema": {"input.input": payload}}, {payload: 1}, (payload, 1, 2)):
        message = refusal(write(value, kind))
        assert "nothing was run" in message
        assert message.isprintable()
    assert not (tmp_path / "marker").exists()


def test_no_name_is_called_in_protocol_2(write, foreign, tmp_path):
    payload = foreign.Call("os", "system", (f"touch {tmp_path}/marker",))
    assert "os.system" in refusal(write(payload, protocol=2))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n(S'true'\ntR.", b"(S'true'\nios\nsystem\n.", b"(cos\nsystem\nS'true'\no.", b"\x82\x01."]
)
def test_calls_by_older_opcodes_are_refused(tmp_path, code):
    for start in (b"\x80\x02", b""):
        (tmp_path / "x.pkl").write_bytes(start + code)
        refusal(tmp_path / "x.pkl")


def test_source_code_in_a_file_never_runs(nets, foreign, tmp_path):
    source = f"open({str(tmp_path / 'marker')!r}, 'w')\nraise SystemExit"
    g, raw, d = nets()
    import_checkpoint(foreign.official_file(tmp_path / "x.pkl", g, raw, d, source=source))
    state, arguments = foreign.numpy_state(g), foreign.tensorflow_arguments(g.cfg)
    network = foreign.tensorflow_generator(state, arguments, build_module_src=source)
    d_net = foreign.tensorflow_discriminator(foreign.numpy_state(d), foreign.tensorflow_arguments(d.cfg), source=source)
    (tmp_path / "y.pkl").write_bytes(foreign.PickleWriter(3).dumps((network, d_net, network)))
    import_checkpoint(tmp_path / "y.pkl")
    assert not (tmp_path / "marker").exists()


def test_a_nested_storage_may_name_storages_alone(write, foreign, tmp_path):
    nested = foreign.PickleWriter(2).dumps(foreign.Call("os", "system", (f"touch {tmp_path}/marker",)))
    start = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    for data in (start + nested, nested, start + b"\x80\x02" + b"." * 9, b"PK\x03\x04" + bytes(99)):
        refusal(write({"G_ema": foreign.Call("torch.storage", "_load_from_bytes", (data,))}))
    assert not (tmp_path / "marker").exists()


# --- bombs ---------------------------------------------------------------------------------------------------------


def test_compressed_and_nested_archives_are_refused(foreign, tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", bytes(50 * 2**20))
    assert "compressed" in refusal(path)
    inner = path.read_bytes()
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("inner.pt", inner)
    assert "no single data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", inner)
    refusal(path)


def test_directories_that_declare_too_much_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("archive/data.pkl", b"\x80\x02N.")
    valid = buffer.getvalue()
    entry, end = valid.rindex(b"PK\x01\x02"), valid.rindex(b"PK\x05\x06")
    for at, value in ((entry + 20, 2**31), (entry + 24, 2**31), (entry + 42, 2**31), (end + 12, 2**31), (end + 16, 2**31)):
        data = bytearray(valid)
        struct.pack_into("<I", data, at, value)
        path.write_bytes(data)
        refusal(path)
    data = bytearray(valid)
    struct.pack_into("<H", data, end + 10, 65535)
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize(
    "code",
    [
        b"r\xff\xff\xff\xffN.",  # the memo entry 2**32 - 1
        b"\x8e" + struct.pack("<Q", 2**62) + b"x.",  # 2**62 bytes
        b"\x8d" + struct.pack("<Q", 2**63) + b"x.",
        b"X\xff\xff\xff\xffabc.",
        b"\x8b\xff\xff\xff\x7f.",  # an integer of 2 GB
        b"\x95" + struct.pack("<Q", 2**63) + b"N.",
        b"(" * 60_000 + b".",
        b"]" * 60_000 + b".",
        b"]q\x00" + b"h\x00a" * 60_000 + b".",
        b")" + b"\x85" * 60_000 + b"}\x8c\x01as.",  # tuples nested 60,000 deep
        b")" + b"q\x00h\x00\x86" * 200 + b"q\x01}h\x01Ns.",  # a key whose hash takes 2**200 steps
        b"]q\x00(" + b"N" * 20_000 + b"ecbuiltins\nset\nq\x01" + b"h\x01h\x00\x85R" * 10_000 + b".",  # 10,000 copies of a list
        b"}q\x00h\x00\x8c\x01ah\x00s.",  # a dictionary that holds itself
        b"\x80\x04\x8c\x02\xff\xfe.",
    ],
)
def test_pickles_that_ask_for_too_much_are_refused(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + code)
    refusal(tmp_path / "x.pkl")


def test_declared_shapes_are_checked_before_memory_is_allocated(write, foreign, nets):
    tensor = torch.ones(4)
    for changes in (
        {"shape": (2**40,), "stride": (1,)},
        {"shape": (2**20, 2**20), "stride": (0, 0)},
        {"shape": (2**62,), "stride": (1,)},
        {"shape": (5,), "stride": (1,)},
        {"shape": (4,), "stride": (2,)},
        {"shape": (4,), "stride": (1,), "offset": 1},
        {"shape": (2,), "stride": (-1,), "offset": 1},
        {"shape": (1,), "stride": (1,), "offset": -1},
        {"shape": (4, 1), "stride": (1,)},
        {"shape": (1,) * 64, "stride": (1,) * 64},
        {"shape": ("4",), "stride": (1,)},
    ):
        refusal(write({"G_ema": foreign.tensor_record(tensor, **changes)}))
    refusal(write((foreign.array_record(np.ones(3, np.float32), shape=(2**40,)),)))
    refusal(write((foreign.array_record(np.ones(3, np.complex64)),)))
    reference = ("storage", foreign.Global("torch", "FloatStorage"), "0", "cpu", 2**40)
    view = foreign.Call("torch._utils", "_rebuild_tensor_v2", (foreign.Persistent(reference), 0, (2**40,), (1,), False, {}))
    for kind in ("zip", "legacy", "pickle"):
        refusal(write({"g_ema": {"input.input": view}}, kind))


def test_one_storage_does_not_become_many_arrays(foreign, nets, tmp_path):
    """Many tensors may share one storage, so the size of the file bounds the memory of all arrays together."""
    g, _, _ = nets(channel_base=512, channel_max=64, resolution=16, z_dim=256, w_dim=256, mapping_layers=60)
    state = foreign.rosinality_generator(g.state_dict())
    path = tmp_path / "x.pt"
    torch.save({"g_ema": {**state, "style.2.weight": state["style.1.weight"]}}, path)
    import_checkpoint(path)
    torch.save({"g_ema": state | {f"style.{i}.weight": state["style.1.weight"] for i in range(1, 61)}}, path)
    assert "more texts and tensors than its bytes" in refusal(path)


def test_large_files_are_refused_before_they_are_read(whole, monkeypatch):
    monkeypatch.setattr(imported, "MAX_FILE_BYTES", 100)
    assert "larger than" in refusal(whole)


def test_many_opcodes_are_refused(whole, monkeypatch):
    monkeypatch.setattr(Budget.__init__, "__defaults__", (50,))
    assert "opcodes" in refusal(whole)


# --- damage --------------------------------------------------------------------------------------------------------


def read_or_refuse(data: bytes) -> None:
    """Read, or catch the refusal. Any other error fails the test, even one of `DAMAGE_ERRORS`."""
    try:
        checkpoint = import_bytes(memoryview(data))
    except FormatError as e:
        assert str(e).isprintable()
    else:
        assert all(np.isfinite(a).all() for a in checkpoint.arrays.values())


@many_examples
@given(st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_refused(whole, fraction):
    data = whole.read_bytes()
    with pytest.raises(FormatError):
        import_bytes(memoryview(data[: int(fraction * len(data))]))


@many_examples
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_read_or_refused(whole, flips):
    data = bytearray(whole.read_bytes())
    for fraction, mask in flips:
        data[int(fraction * len(data))] ^= mask
    read_or_refuse(bytes(data))


@many_examples
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x80\x04", b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."]))
def test_random_bytes_are_refused(data, start):
    with pytest.raises(FormatError):
        import_bytes(memoryview(start + data))


def replaced(value: Any, index: list[int], other: Any, call: type[Any]) -> Any:
    """The value with one of its parts replaced. `index` counts the parts depth first, and is counted down to it."""
    index[0] -= 1
    if index[0] == -1:
        return other
    match value:
        case dict():
            return {k: replaced(v, index, other, call) for k, v in value.items()}
        case list() | tuple():
            return type(value)(replaced(v, index, other, call) for v in value)
        case call():
            args = replaced(value.args, index, other, call)
            state = None if value.state is None else replaced(value.state, index, other, call)
            return call(value.module, value.name, args, state, value.new)
    return value


ODDITIES: list[Any] = [None, True, -1, 0, 2, 7, 4096, 2**40, 2**63, 2**100, 0.0, -1.5, 1e308, float("nan"), float("inf")]
ODDITIES += ["", "skip", "b4", b"", b"x" * 9, (), (1,), [], [[]], {}, {"a": 1}, {1: 2}]


@settings(many_examples, max_examples=250)
@given(
    kind=st.sampled_from(["official_file", "tensorflow_file"]),
    where=st.floats(0, 1, exclude_max=True),
    other=st.sampled_from(ODDITIES),
)
def test_any_part_replaced_by_an_odd_value_is_read_or_refused(small, foreign, tmp_path, kind, where, other):
    parts: list[int] = []

    def change(value: Any) -> Any:
        counter = [2**40]
        replaced(value, counter, None, foreign.Call)
        parts.append(2**40 - counter[0])
        return replaced(value, [int(where * parts[0])], other, foreign.Call)

    try:
        path = getattr(foreign, kind)(tmp_path / "x.pkl", *small, change=change)
    except (TypeError, AttributeError):  # the writer cannot write it: arguments that are no tuple
        return
    read_or_refuse(path.read_bytes())


@pytest.fixture
def small(nets):
    return nets(channel_base=16, channel_max=3, c_dim=2, mapping_layers=1)


def test_missing_and_wrong_tensors_are_refused_by_name(nets, foreign, tmp_path):
    g, _, _ = nets(z_dim=7)
    state, path = foreign.rosinality_generator(g.state_dict()), tmp_path / "x.pt"
    for name in [k for k in state if not k.endswith("kernel")]:
        torch.save({"g_ema": {k: v for k, v in state.items() if k != name}}, path)
        refusal(path)
    name = "convs.0.conv.weight"
    t = state[name]
    for bad in (t.int(), t.bool(), t.double() * 1e300, t * float("nan"), t * float("inf"), t[0], t[:, :, :, :2]):
        torch.save({"g_ema": {**state, name: bad.clone()}}, path)
        assert name in refusal(path)
    torch.save({"g_ema": {**state, "attention.weight": t}}, path)
    assert "attention.weight" in refusal(path)
    torch.save({"g_ema": {**state, "convs.0.conv.blur.kernel": torch.ones(4, 4)}}, path)
    assert "blur" in refusal(path)


# --- other networks and other files ---------------------------------------------------------------------------------


def test_networks_and_options_that_are_not_stylegan2s_are_refused_by_name(nets, foreign, tmp_path, write):
    g, _, d = nets(c_dim=2)
    assert "activation relu" in refusal(foreign.official_file(tmp_path / "x.pkl", g, activation="relu"))
    g3 = foreign.official_record(g, g.cfg)
    synthesis = g3.args[0]["state"]["_modules"]["synthesis"].args[0]["state"]
    synthesis["_modules"] = {"input": foreign.official_module("SynthesisInput", {}), "L0_36_512": synthesis["_modules"]["b4"]}
    assert "SynthesisInput has no readable _modules" in refusal(write({"G_ema": g3}))
    state, valid_arguments = foreign.numpy_state(g), foreign.tensorflow_arguments(g.cfg)
    d_net = foreign.tensorflow_discriminator(foreign.numpy_state(d), foreign.tensorflow_arguments(d.cfg))

    def tensorflow(**changes: Any) -> str:
        arguments = valid_arguments | changes.pop("arguments", {})
        net = foreign.tensorflow_generator(state, arguments, **changes)
        return refusal(write((net, d_net, net), protocol=3))

    assert "Gs has architecture = skip" in tensorflow(build_func_name="G_style")  # then it is read as a StyleGAN1 generator
    assert "Gs has architecture" in tensorflow(variables=[("4x4/AdaIN/StyleMod/weight", np.ones(3, np.float32))])
    assert "grows progressively" in tensorflow(variables=[("8x8/ToRGB_lod0/weight", np.ones(3, np.float32))])
    assert "LabelConcat" in tensorflow(variables=[("mapping/LabelConcat/weight", np.ones(3, np.float32))])
    assert "fmap_decay = 2" in tensorflow(arguments={"fmap_decay": 2})
    assert "magic = True" in tensorflow(arguments={"magic": True})
    assert "nonlinearity = relu" in tensorflow(arguments={"nonlinearity": "relu"})
    assert "beyond float32" in tensorflow(arguments={"resample_kernel": [1e200, 3.0, 3.0, 1e200]})
    assert "512 features" in tensorflow(arguments={"mapping_fmaps": 512})
    assert "not square: resolution_w is 16, resolution is 8" in tensorflow(arguments={"resolution_w": 16, "resolution_h": 8})
    assert "not a StyleGAN2 generator" in refusal(write(foreign.official_record(d, d.cfg)))


def test_a_conditional_network_that_lost_its_class_embedding_is_refused(nets, foreign, tmp_path):
    """Its first mapping layer reads the z and the embedding, so the file looks like a network with a wider z."""
    g, _, _ = nets(z_dim=14, w_dim=7)
    torch.save({"g_ema": foreign.rosinality_generator(g.state_dict())}, tmp_path / "x.pt")
    message = refusal(tmp_path / "x.pt")
    assert "inputs of width 14 to latents of width 7" in message
    assert "class embedding" in message


@pytest.mark.parametrize(
    "text", ["", "<!DOCTYPE html><html>not found</html>", "version https://git-lfs.github.com/spec/v1\noid sha256:1"]
)
def test_files_of_another_kind_are_refused(tmp_path, text):
    (tmp_path / "x.pkl").write_text(text)
    assert "no pickle, torch file or safetensors" in refusal(tmp_path / "x.pkl")


@pytest.mark.parametrize("value", [None, 3, "text", [1], {"state_dict": 1}, (1, 2, 3), {}])
def test_pickles_of_other_objects_are_refused(write, value):
    assert "no" in refusal(write(value))


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pkl"):
        with pytest.raises(CheckpointError, match=r"does not exist|not a file"):
            import_checkpoint(path)


def test_the_command_prints_what_was_converted_and_written(whole, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    run_import(whole, out)
    lines = capsys.readouterr().out.splitlines()
    assert any("converted G_ema" in line for line in lines)
    assert lines[-1] == f"wrote {out}"
    assert read_generator(out).config.resolution == 8
