"""TensorRT-RTX builds real engines here, with no GPU; everything around a build is held to what it promises."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stylert.cli import main as cli
from stylert.core.devices import Driver, Gpu
from stylert.core.errors import BackendError, BundleError, InputError, OutputError
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import backend, tensorrt_build
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine, engine_folder, engine_key, find_engine
from stylert.runtime.loading import engine_to_load

trt = pytest.importorskip("tensorrt_rtx")

RTX = "tensorrt-rtx"
SM89 = BuildOptions(target="sm_89")


@pytest.fixture(scope="module")
def for_rtx(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the forms that TensorRT-RTX runs."""
    return export_bundle(checkpoint, tmp_path_factory.mktemp("rtx") / "bundle", ["fp32", "fp16", "int8"], backends=[RTX])


@pytest.fixture
def own(for_rtx: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(for_rtx.path, tmp_path / "bundle"))


def engines(bundle: Bundle) -> list[str]:
    """Every entry of the engines folder, also the hidden ones that an unfinished build would leave."""
    folder = bundle.path / "engines"
    return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_120"])
def test_an_engine_is_built_for_a_gpu_that_is_not_here(own: Bundle, target: str, precision: str) -> None:
    facts = build_engine(own, RTX, precision, BuildOptions(target=target, batch=(1, 2, 17)))
    (name,) = engines(own)
    assert name.startswith(f"{RTX}-{target}-")
    engine = own.path / "engines" / name / "engine.engine"
    assert facts["bytes"] == engine.stat().st_size > facts["weights_bytes"] > 0
    assert valid(engine.read_bytes())
    assert not valid(b"x" + engine.read_bytes()[1:])
    convolutions = [layer for layer in facts["layers"] if layer["kind"] == "correlation"]
    assert facts["kernels"] == sum(facts["kinds"].values()) >= len(convolutions) > 0
    # Int8 convolutions read Int8: the quantised layers of 8 px and above, and none of the float32 network's.
    eight_bit = [layer for layer in convolutions if layer["reads"] == ["Int8"]]
    assert len(eight_bit) == (4 if precision == "int8" else 0)
    assert any(written == "UInt8[-1,16,16,3]" for layer in facts["layers"] for written in layer["writes"])


def valid(engine: bytes) -> bool:
    """Whether the library finds the engine whole: what it says without a driver, with one error bit for everything damaged."""
    malformed = int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    return not trt.Runtime(trt.Logger(trt.Logger.ERROR)).get_engine_validity(engine)[1] & malformed


def test_each_batch_range_gets_kernels_of_its_own(own: Bundle) -> None:
    one = build_engine(own, RTX, "int8", BuildOptions(target="sm_89", batch=(1, 4, 16)))
    two = build_engine(own, RTX, "int8", BuildOptions(target="sm_89", batch=((1, 1, 1), (4, 8, 16))))
    assert two["key"]["flags"]["batch"] == [[1, 1, 1], [4, 8, 16]]
    assert two["bytes"] > one["bytes"]
    shapes = {written for layer in two["layers"] for written in layer["writes"] if written.endswith("16,16,3]")}
    assert {"UInt8[1,16,16,3]", "UInt8[-1,16,16,3]"} <= shapes
    # Of one image a style is a vector, and what is multiplied by it is fused: the figures are of that range.
    assert two["range"] == 0
    assert two["kernels"] == sum(k["range"] == 0 and k["kind"] != "shape_call" for k in two["layers"]) < one["kernels"]
    assert two["moved_bytes"] < one["moved_bytes"]


def here(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    gpu = Gpu(0, "a GPU", capability, 2**34)
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: Driver("13.0", (gpu,), None))


def test_one_compatible_engine_serves_every_gpu_from_ampere_on(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = build_engine(own, RTX, "int8", BuildOptions(hardware_compatible=True, batch=(1, 1, 2)))
    (name,) = engines(own)
    assert name.startswith(f"{RTX}-ampere-plus-")
    assert {"sm_80", "sm_86", "sm_89", "sm_120"} <= set(facts["key"]["flags"]["architectures"])
    assert "sm_75" not in facts["key"]["flags"]["architectures"]
    assert valid((own.path / "engines" / name / "engine.engine").read_bytes())
    for capability in ((8, 0), (8, 6), (8, 9), (12, 0)):
        here(monkeypatch, capability)
        assert engine_to_load(own, RTX, "int8") == own.path / "engines" / name
    for capability in ((7, 5), (9, 0)):
        here(monkeypatch, capability)
        assert engine_to_load(own, RTX, "int8") is None
    build_engine(own, RTX, "int8", BuildOptions(target="sm_89", batch=(1, 1, 1)))
    here(monkeypatch, (8, 9))
    chosen = engine_to_load(own, RTX, "int8")
    assert chosen is not None
    assert chosen.name.startswith(f"{RTX}-sm_89-")  # what was made for this very GPU comes first


def test_a_version_compatible_engine_serves_later_versions_and_no_earlier_one(
    own: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(own, RTX, "int8", BuildOptions(target="sm_89", version_compatible=True))
    (name,) = engines(own)
    assert valid((own.path / "engines" / name / "engine.engine").read_bytes())
    here(monkeypatch, (8, 9))
    for version, runs in (("99.0", True), (backend(RTX).version(), True), ("1.2.0", False)):
        monkeypatch.setattr(backend(RTX), "version", lambda version=version: version)
        assert (engine_to_load(own, RTX, "int8") is not None) == runs


def test_a_float16_network_runs_its_convolutions_in_float16(own: Bundle) -> None:
    facts = build_engine(own, RTX, "fp16", SM89)
    convolutions = [layer for layer in facts["layers"] if layer["kind"] == "correlation"]
    assert any(layer["reads"] == ["Half"] for layer in convolutions)
    assert facts["key"]["flags"]["tf32"]


def test_a_bundle_without_a_form_for_it_says_how_to_get_one(bundle: Bundle, tmp_path: Path) -> None:
    plain = Bundle.load(shutil.copytree(bundle.path, tmp_path / "plain"))
    with pytest.raises(BundleError, match=r"stylert export.*--backend tensorrt-rtx") as e:
        build_engine(plain, RTX, "int8", SM89)
    assert "\n" not in str(e.value)
    assert engines(plain) == []


def test_an_engine_is_reused_only_where_source_version_target_and_flags_match(
    own: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not build_engine(own, RTX, "int8", SM89)["reused"]
    assert build_engine(own, RTX, "int8", SM89)["reused"]
    key = engine_key(own, RTX, "int8", SM89)
    for other in (
        engine_key(own, RTX, "fp32", SM89),
        engine_key(own, RTX, "int8", BuildOptions(target="sm_86")),
        engine_key(own, RTX, "int8", BuildOptions(target="sm_89", batch=(1, 4, 17))),
        engine_key(own, RTX, "int8", BuildOptions(target="sm_89", level=1)),
        dataclasses.replace(key, source_sha256="0" * 64),
    ):
        assert other.digest != key.digest
        assert find_engine(own, other) is None
    monkeypatch.setattr(backend(RTX), "version", lambda: "9.9.9")
    assert find_engine(own, engine_key(own, RTX, "int8", SM89)) is None


def test_the_machine_that_built_it_is_no_part_of_an_engine_for_another(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    key = engine_key(own, RTX, "int8", SM89)
    monkeypatch.setattr("stylert.core.host._cpuinfo", lambda: {"model name": "another"})
    assert engine_key(own, RTX, "int8", SM89) == key
    assert engine_key(own, "onnxruntime", "int8").machine.startswith("another")


def test_progress_rises_to_the_end(own: Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    build_engine(own, RTX, "int8", SM89, progress=lambda *report: seen.append(report))
    done = [d for _, d, _ in seen]
    assert len(done) > 3
    assert done == sorted(done)
    assert seen[-1] == (f"{RTX} int8 sm_89", 100, 100)


@pytest.fixture
def press() -> Iterator[Callable[..., None]]:
    """Ctrl-C, once, for whoever calls it. A process in the background of a shell starts with the signal ignored."""
    pressed: list[object] = []

    def once(*report: object) -> None:
        if not pressed:
            pressed.append(report)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield once
    signal.signal(signal.SIGINT, before)
    assert pressed


def test_ctrl_c_stops_the_build_and_leaves_nothing(own: Bundle, press: Callable[..., None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_engine(own, RTX, "int8", SM89, progress=press)
    assert engines(own) == []
    assert not build_engine(own, RTX, "int8", SM89)["reused"]


def test_ctrl_c_while_the_library_talks_is_not_eaten_by_it(
    own: Bundle, press: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception inside a callback stops there. The logger is called from the parser on, long before the first progress."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            press()

    monkeypatch.setattr(tensorrt_build, "_log", lambda library: Log())
    with pytest.raises(KeyboardInterrupt):
        build_engine(own, RTX, "int8", SM89)
    assert engines(own) == []


def test_ctrl_c_ends_the_command_in_one_word(
    own: Bundle, press: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stylert.cli.pipeline.build.progress", lambda: contextlib.nullcontext(press))
    monkeypatch.setattr(sys, "argv", ["stylert", "build", str(own.path), "--backend", RTX, "--target", "sm_89"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert (e.value.code, capfd.readouterr().err) == (130, "stopped\n")
    assert engines(own) == []


def test_an_error_in_the_report_stops_the_build_and_is_told(own: Bundle) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_engine(own, RTX, "int8", SM89, progress=fail)
    assert engines(own) == []


@pytest.mark.parametrize("room", [30_000, 1_000_000], ids=["for nothing", "for the lowered network only"])
def test_a_full_disk_is_one_line_and_leaves_nothing(own: Bundle, room: int) -> None:
    code = f"""
import resource, sys
from stylert.cli.main import main
import onnxruntime, tensorrt_rtx
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))  # no file may grow past this, as on a full disk
sys.argv = ["stylert", "build", {str(own.path)!r}, "--backend", "{RTX}", "--precision", "int8", "--target", "sm_89"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("stylert: cannot write")
    assert "Traceback" not in done.stderr
    assert engines(own) == []
    assert not build_engine(own, RTX, "int8", SM89)["reused"]


def test_an_error_of_the_disk_at_the_very_end_leaves_nothing(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        build_engine(own, RTX, "int8", SM89)
    assert engines(own) == []


def test_a_network_that_the_compiler_refuses_is_one_line_with_its_reason(own: Bundle) -> None:
    with pytest.raises(BackendError, match=r"cannot be compiled: .*Turing") as e:
        build_engine(own, RTX, "fp32", BuildOptions(target="sm_75"))
    assert "\n" not in str(e.value)
    assert engines(own) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"target": "sm_90"}, "sm_89"),
        ({"target": "sm_89", "hardware_compatible": True}, "leave --target out"),
        ({"target": "sm_89", "stripped": True}, "stripped"),
        ({"target": "sm_89", "plugins": True}, "plugins"),
    ],
)
def test_what_it_cannot_build_is_refused_before_the_build(own: Bundle, options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        build_engine(own, RTX, "int8", BuildOptions(**options))  # type: ignore[arg-type]


def test_without_the_library_the_command_that_installs_it_is_named(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[tensorrt-rtx\]'"):
        build_engine(own, RTX, "int8", SM89)


def test_without_a_gpu_running_is_one_clear_line(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(None, (), "no NVIDIA driver is installed")
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: driver)
    build_engine(own, RTX, "int8", SM89)
    with pytest.raises(BackendError, match="no NVIDIA driver") as e:
        Generator.load(own, RTX, "int8")
    assert "\n" not in str(e.value)
    assert "no NVIDIA driver" in backend(RTX).unavailable_reason()


def test_on_a_gpu_the_engine_of_its_architecture_with_the_widest_batches_is_chosen(
    own: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in (SM89, BuildOptions(target="sm_89", batch=(1, 2, 5)), BuildOptions(target="sm_86", batch=(1, 2, 99))):
        build_engine(own, RTX, "int8", options)

    here(monkeypatch, (8, 9))
    assert engine_to_load(own, RTX, "int8") == engine_folder(own, engine_key(own, RTX, "int8", SM89))
    here(monkeypatch, (12, 0))
    with pytest.raises(BackendError, match=r"no int8 engine.*stylert build"):
        Generator.load(own, RTX, "int8")
    here(monkeypatch, (8, 9))
    monkeypatch.setattr(backend(RTX), "version", lambda: "9.9.9")
    with pytest.raises(BackendError, match="stylert build"):
        Generator.load(own, RTX, "int8")


def test_a_damaged_engine_is_refused_and_the_next_build_mends_it(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build_engine(own, RTX, "int8", SM89)
    folder = engine_folder(own, engine_key(own, RTX, "int8", SM89))
    whole = (folder / "engine.engine").read_bytes()
    here(monkeypatch, (8, 9))
    for name, content in (
        ("engine.engine", whole[:-9]),
        ("engine.engine", whole[:5000] + b"\0" + whole[5001:]),
        ("engine.json", b"{"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(BundleError, match="build again"):
            Generator.load(own, RTX, "int8")
        assert not build_engine(own, RTX, "int8", SM89)["reused"]
        assert engine_to_load(own, RTX, "int8") is not None


def test_the_command_builds_each_target_and_says_what_it_built(own: Bundle) -> None:
    command = [sys.executable, "-c", "from stylert.cli.main import main; main()", "build", str(own.path), "--backend", RTX]
    options = ["--precision", "int8", "--target", "sm_89,sm_120", "--batch", "1:4:16"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert [name.rsplit("-", 1)[0] for name in engines(own)] == [f"{RTX}-sm_120", f"{RTX}-sm_89"]
    for name in engines(own):
        facts = json.loads((own.path / "engines" / name / "engine.json").read_text())
        assert str(facts["kernels"]) in done.stdout
        assert facts["key"]["flags"]["batch"] == [[1, 4, 16]]


def test_a_target_that_the_compiler_refuses_keeps_no_other_from_being_built(own: Bundle) -> None:
    command = [sys.executable, "-c", "from stylert.cli.main import main; main()", "build", str(own.path), "--backend", RTX]
    options = ["--precision", "int8", "--target", "sm_75,sm_89"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 2
    assert [name.rsplit("-", 1)[0] for name in engines(own)] == [f"{RTX}-sm_89"]
    assert "sm_89" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith(f"stylert: {RTX} int8 sm_75: the network cannot be compiled")
