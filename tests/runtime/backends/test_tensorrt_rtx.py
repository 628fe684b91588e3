"""TensorRT-RTX builds real engines in these tests, without a GPU. Running them is not tested here."""

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
from stylert.core.errors import BackendError, BundleError, InputError, OutputError
from stylert.core.machine.devices import Driver, Gpu
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
    """A bundle with the files in the form for TensorRT-RTX."""
    return export_bundle(checkpoint, tmp_path_factory.mktemp("rtx") / "bundle", ["fp32", "fp16", "int8"], backends=[RTX])


@pytest.fixture
def bundle_copy(for_rtx: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(for_rtx.path, tmp_path / "bundle"))


def engines(bundle: Bundle) -> list[str]:
    """Every entry of the engines folder, including hidden ones, which an unfinished build might leave."""
    folder = bundle.path / "engines"
    return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_120"])
def test_an_engine_is_built_for_a_gpu_that_this_machine_does_not_have(bundle_copy: Bundle, target: str, precision: str) -> None:
    facts = build_engine(bundle_copy, RTX, precision, BuildOptions(target=target, batch=(1, 2, 17)))
    (name,) = engines(bundle_copy)
    assert name.startswith(f"{RTX}-{target}-")
    engine = bundle_copy.path / "engines" / name / "engine.engine"
    assert facts["bytes"] == engine.stat().st_size > facts["weights_bytes"] > 0
    assert valid(engine.read_bytes())
    assert not valid(b"x" + engine.read_bytes()[1:])
    convolutions = [layer for layer in facts["layers"] if layer["kind"] == "correlation"]
    assert facts["kernels"] == sum(facts["kinds"].values()) >= len(convolutions) > 0
    # Only the quantised layers, those of 8 px and above, read Int8.
    eight_bit = [layer for layer in convolutions if layer["reads"] == ["Int8"]]
    assert len(eight_bit) == (4 if precision == "int8" else 0)
    assert any(written == "UInt8[-1,16,16,3]" for layer in facts["layers"] for written in layer["writes"])


def test_a_bundle_that_was_exported_without_naming_this_backend_builds_in_int8(bundle: Bundle, tmp_path: Path) -> None:
    """Its only INT8 network has zero points, which the library refuses. The symmetric steps are derived at the build."""
    default = Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))
    assert default.network("int8", RTX) == default.precision("int8").file
    facts = build_engine(default, RTX, "int8", SM89)
    assert [layer for layer in facts["layers"] if layer["kind"] == "correlation" and layer["reads"] == ["Int8"]]


def valid(engine: bytes) -> bool:
    """Whether the library finds the engine undamaged. It checks this without a driver."""
    malformed = int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    return not trt.Runtime(trt.Logger(trt.Logger.ERROR)).get_engine_validity(engine)[1] & malformed


def test_each_batch_range_gets_kernels_of_its_own(bundle_copy: Bundle) -> None:
    one = build_engine(bundle_copy, RTX, "int8", BuildOptions(target="sm_89", batch=(1, 4, 16)))
    two = build_engine(bundle_copy, RTX, "int8", BuildOptions(target="sm_89", batch=((1, 1, 1), (4, 8, 16))))
    assert two["key"]["flags"]["batch"] == [[1, 1, 1], [4, 8, 16]]
    assert two["bytes"] > one["bytes"]
    shapes = {written for layer in two["layers"] for written in layer["writes"] if written.endswith("16,16,3]")}
    assert {"UInt8[1,16,16,3]", "UInt8[-1,16,16,3]"} <= shapes
    # For batch 1 a style is a vector, so more is fused. The figures are those of the first range.
    assert two["range"] == 0
    assert two["kernels"] == sum(k["range"] == 0 and k["kind"] != "shape_call" for k in two["layers"]) < one["kernels"]
    assert two["moved_bytes"] < one["moved_bytes"]


def set_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    gpu = Gpu(0, "a GPU", capability, 2**34)
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: Driver("13.0", (gpu,), None))


def test_a_data_center_gpu_is_told_which_backends_it_has(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    others = "use tensorrt, torch or onnxruntime-cuda there"
    set_gpu(monkeypatch, (9, 0))  # H100 and H200: TensorRT-RTX builds nothing for them
    refused = f"has no engines for a GPU .sm_90.; {others}"
    with pytest.raises(BackendError, match=refused) as e:
        build_engine(bundle_copy, RTX, "fp32")
    assert "\n" not in str(e.value)
    with pytest.raises(BackendError, match=refused):
        Generator.load(bundle_copy, RTX, "fp32")
    assert others in str(backend(RTX).unavailable_reason())
    with pytest.raises(InputError, match=f"not for sm_90; {others}"):
        build_engine(bundle_copy, RTX, "fp32", BuildOptions(target="sm_90"))
    set_gpu(monkeypatch, (8, 9))
    assert backend(RTX).unavailable_reason() is None
    assert engines(bundle_copy) == []


def test_one_compatible_engine_serves_every_gpu_from_ampere_on(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = build_engine(bundle_copy, RTX, "int8", BuildOptions(hardware_compatible=True, batch=(1, 1, 2)))
    (name,) = engines(bundle_copy)
    assert name.startswith(f"{RTX}-ampere-plus-")
    assert {"sm_80", "sm_86", "sm_89", "sm_120"} <= set(facts["key"]["flags"]["architectures"])
    assert "sm_75" not in facts["key"]["flags"]["architectures"]
    assert valid((bundle_copy.path / "engines" / name / "engine.engine").read_bytes())
    for capability in ((8, 0), (8, 6), (8, 9), (12, 0)):
        set_gpu(monkeypatch, capability)
        assert engine_to_load(bundle_copy, RTX, "int8") == bundle_copy.path / "engines" / name
    set_gpu(monkeypatch, (7, 5))
    assert engine_to_load(bundle_copy, RTX, "int8") is None
    set_gpu(monkeypatch, (9, 0))
    with pytest.raises(BackendError, match="has no engines for"):
        engine_to_load(bundle_copy, RTX, "int8")
    build_engine(bundle_copy, RTX, "int8", BuildOptions(target="sm_89", batch=(1, 1, 1)))
    set_gpu(monkeypatch, (8, 9))
    chosen = engine_to_load(bundle_copy, RTX, "int8")
    assert chosen is not None
    assert chosen.name.startswith(f"{RTX}-sm_89-")  # an engine for exactly this GPU comes first


def test_a_version_compatible_engine_serves_later_versions_and_no_earlier_one(
    bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(bundle_copy, RTX, "int8", BuildOptions(target="sm_89", version_compatible=True))
    (name,) = engines(bundle_copy)
    assert valid((bundle_copy.path / "engines" / name / "engine.engine").read_bytes())
    set_gpu(monkeypatch, (8, 9))
    for version, runs in (("99.0", True), (backend(RTX).version(), True), ("1.2.0", False)):
        monkeypatch.setattr(backend(RTX), "version", lambda version=version: version)
        assert (engine_to_load(bundle_copy, RTX, "int8") is not None) == runs


def test_a_float16_network_runs_its_convolutions_in_float16(bundle_copy: Bundle) -> None:
    facts = build_engine(bundle_copy, RTX, "fp16", SM89)
    convolutions = [layer for layer in facts["layers"] if layer["kind"] == "correlation"]
    assert any(layer["reads"] == ["Half"] for layer in convolutions)
    assert facts["key"]["flags"]["tf32"]


def test_the_error_for_a_network_that_it_cannot_parse_names_the_export_command(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero points other than 0, which stay if no symmetric steps are derived."""
    plain = Bundle.load(shutil.copytree(bundle.path, tmp_path / "plain"))
    monkeypatch.setattr("stylert.runtime.symmetric_steps.symmetric_rewrite", lambda precision: None)
    with pytest.raises(BundleError, match=r"stylert export.*--backend tensorrt-rtx") as e:
        build_engine(plain, RTX, "int8", SM89)
    assert "\n" not in str(e.value)
    assert engines(plain) == []


def test_an_engine_is_reused_only_where_source_version_target_and_flags_match(
    bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not build_engine(bundle_copy, RTX, "int8", SM89)["reused"]
    assert build_engine(bundle_copy, RTX, "int8", SM89)["reused"]
    key = engine_key(bundle_copy, RTX, "int8", SM89)
    for other in (
        engine_key(bundle_copy, RTX, "fp32", SM89),
        engine_key(bundle_copy, RTX, "int8", BuildOptions(target="sm_86")),
        engine_key(bundle_copy, RTX, "int8", BuildOptions(target="sm_89", batch=(1, 4, 17))),
        engine_key(bundle_copy, RTX, "int8", BuildOptions(target="sm_89", level=1)),
        dataclasses.replace(key, source_sha256="0" * 64),
    ):
        assert other.digest != key.digest
        assert find_engine(bundle_copy, other) is None
    monkeypatch.setattr(backend(RTX), "version", lambda: "9.9.9")
    assert find_engine(bundle_copy, engine_key(bundle_copy, RTX, "int8", SM89)) is None


def test_the_building_machine_is_no_part_of_an_engines_key(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    key = engine_key(bundle_copy, RTX, "int8", SM89)
    monkeypatch.setattr("stylert.core.machine.host._cpuinfo", lambda: {"model name": "another"})
    assert engine_key(bundle_copy, RTX, "int8", SM89) == key
    assert engine_key(bundle_copy, "onnxruntime", "int8").machine.startswith("another")


def test_progress_rises_to_the_end(bundle_copy: Bundle) -> None:
    reports: list[tuple[str, int, int]] = []
    build_engine(bundle_copy, RTX, "int8", SM89, progress=lambda *report: reports.append(report))
    done = [d for _, d, _ in reports]
    assert len(done) > 3
    assert done == sorted(done)
    assert reports[-1] == (f"{RTX} int8 sm_89", 100, 100)


@pytest.fixture
def press() -> Iterator[Callable[..., None]]:
    """A function that presses Ctrl-C at its first call. Processes in a shell's background start with the signal ignored."""
    presses: list[object] = []

    def once(*report: object) -> None:
        if not presses:
            presses.append(report)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield once
    signal.signal(signal.SIGINT, before)
    assert presses


def test_ctrl_c_stops_the_build_and_leaves_no_files(bundle_copy: Bundle, press: Callable[..., None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle_copy, RTX, "int8", SM89, progress=press)
    assert engines(bundle_copy) == []
    assert not build_engine(bundle_copy, RTX, "int8", SM89)["reused"]


def test_ctrl_c_during_a_callback_of_the_library_is_not_lost(
    bundle_copy: Bundle, press: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library swallows exceptions of its callbacks. It calls the logger from the parser on, before any progress."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            press()

    monkeypatch.setattr(tensorrt_build, "_log", lambda library: Log())
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle_copy, RTX, "int8", SM89)
    assert engines(bundle_copy) == []


def test_ctrl_c_ends_the_command_with_one_word(
    bundle_copy: Bundle, press: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stylert.cli.pipeline.build.progress", lambda: contextlib.nullcontext(press))
    monkeypatch.setattr(sys, "argv", ["stylert", "build", str(bundle_copy.path), "--backend", RTX, "--target", "sm_89"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert (e.value.code, capfd.readouterr().err) == (130, "stopped\n")
    assert engines(bundle_copy) == []


def test_an_error_in_the_progress_callback_stops_the_build_and_is_raised(bundle_copy: Bundle) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_engine(bundle_copy, RTX, "int8", SM89, progress=fail)
    assert engines(bundle_copy) == []


@pytest.mark.parametrize("room", [30_000, 1_000_000], ids=["for nothing", "for the lowered network only"])
def test_a_full_disk_is_one_line_and_leaves_no_files(bundle_copy: Bundle, room: int) -> None:
    code = f"""
import resource, sys
from stylert.cli.main import main
import onnxruntime, tensorrt_rtx
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))  # no file may grow past this, as on a full disk
sys.argv = ["stylert", "build", {str(bundle_copy.path)!r}, "--backend", "{RTX}", "--precision", "int8", "--target", "sm_89"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("stylert: cannot write")
    assert "Traceback" not in done.stderr
    assert engines(bundle_copy) == []
    assert not build_engine(bundle_copy, RTX, "int8", SM89)["reused"]


def test_a_disk_error_at_the_end_of_a_build_leaves_no_files(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: str, encoding: str | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        build_engine(bundle_copy, RTX, "int8", SM89)
    assert engines(bundle_copy) == []


def test_a_network_that_the_compiler_refuses_is_an_error_of_one_line_with_its_reason(bundle_copy: Bundle) -> None:
    with pytest.raises(BackendError, match=r"cannot be compiled: .*Turing") as e:
        build_engine(bundle_copy, RTX, "fp32", BuildOptions(target="sm_75"))
    assert "\n" not in str(e.value)
    assert engines(bundle_copy) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"target": "sm_90"}, "sm_89"),
        ({"target": "sm_89", "hardware_compatible": True}, "leave --target out"),
        ({"target": "sm_89", "stripped": True}, "stripped"),
        ({"target": "sm_89", "plugins": True}, "plugins"),
    ],
)
def test_options_that_it_cannot_build_are_refused_before_the_build(
    bundle_copy: Bundle, options: dict[str, object], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        build_engine(bundle_copy, RTX, "int8", BuildOptions(**options))  # type: ignore[arg-type]


def test_the_error_without_the_library_names_the_install_command(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[tensorrt-rtx\]'"):
        build_engine(bundle_copy, RTX, "int8", SM89)


def test_loading_without_a_gpu_is_an_error_of_one_line(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(None, (), "no NVIDIA driver is installed")
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: driver)
    build_engine(bundle_copy, RTX, "int8", SM89)
    with pytest.raises(BackendError, match="no NVIDIA driver") as e:
        Generator.load(bundle_copy, RTX, "int8")
    assert "\n" not in str(e.value)
    assert "no NVIDIA driver" in backend(RTX).unavailable_reason()


def test_on_a_gpu_the_engine_of_its_architecture_with_the_widest_batches_is_chosen(
    bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in (SM89, BuildOptions(target="sm_89", batch=(1, 2, 5)), BuildOptions(target="sm_86", batch=(1, 2, 99))):
        build_engine(bundle_copy, RTX, "int8", options)

    set_gpu(monkeypatch, (8, 9))
    assert engine_to_load(bundle_copy, RTX, "int8") == engine_folder(bundle_copy, engine_key(bundle_copy, RTX, "int8", SM89))
    set_gpu(monkeypatch, (12, 0))
    with pytest.raises(BackendError, match=r"no int8 engine.*stylert build"):
        Generator.load(bundle_copy, RTX, "int8")
    set_gpu(monkeypatch, (8, 9))
    monkeypatch.setattr(backend(RTX), "version", lambda: "9.9.9")
    with pytest.raises(BackendError, match="stylert build"):
        Generator.load(bundle_copy, RTX, "int8")


def test_a_damaged_engine_is_refused_and_the_next_build_replaces_it(
    bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(bundle_copy, RTX, "int8", SM89)
    folder = engine_folder(bundle_copy, engine_key(bundle_copy, RTX, "int8", SM89))
    intact = (folder / "engine.engine").read_bytes()
    set_gpu(monkeypatch, (8, 9))
    for name, content in (
        ("engine.engine", intact[:-9]),
        ("engine.engine", intact[:5000] + b"\0" + intact[5001:]),
        ("engine.json", b"{"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(BundleError, match="build it again"):
            Generator.load(bundle_copy, RTX, "int8")
        assert not build_engine(bundle_copy, RTX, "int8", SM89)["reused"]
        assert engine_to_load(bundle_copy, RTX, "int8") is not None


def test_the_command_builds_each_target_and_prints_its_facts(bundle_copy: Bundle) -> None:
    command = [
        sys.executable,
        "-c",
        "from stylert.cli.main import main; main()",
        "build",
        str(bundle_copy.path),
        "--backend",
        RTX,
    ]
    options = ["--precision", "int8", "--target", "sm_89,sm_120", "--batch", "1:4:16"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert [name.rsplit("-", 1)[0] for name in engines(bundle_copy)] == [f"{RTX}-sm_120", f"{RTX}-sm_89"]
    for name in engines(bundle_copy):
        facts = json.loads((bundle_copy.path / "engines" / name / "engine.json").read_text())
        assert str(facts["kernels"]) in done.stdout
        assert facts["key"]["flags"]["batch"] == [[1, 4, 16]]


def test_a_target_that_the_compiler_refuses_does_not_stop_the_others(bundle_copy: Bundle) -> None:
    command = [
        sys.executable,
        "-c",
        "from stylert.cli.main import main; main()",
        "build",
        str(bundle_copy.path),
        "--backend",
        RTX,
    ]
    options = ["--precision", "int8", "--target", "sm_75,sm_89"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 2
    assert [name.rsplit("-", 1)[0] for name in engines(bundle_copy)] == [f"{RTX}-sm_89"]
    assert "sm_89" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith(f"stylert: {RTX} int8 sm_75: the network cannot be compiled")
