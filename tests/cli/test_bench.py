"""`stylert bench`: a run with its files, its report and its comparison, and one line for every mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stylert.benchmarks import models, suite
from stylert.benchmarks.models import standard_model
from stylert.benchmarks.scenarios import runner as scenarios
from stylert.benchmarks.schema import read_results
from stylert.cli import main as cli
from stylert.core.errors import InputError
from stylert.runtime.bundle import Bundle

QUICK = ["--seconds", "0.02", "--runs", "6", "--rounds", "3", "--threads", "1", "--backend", "onnxruntime", "--no-ceilings"]


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stylert", *map(str, args)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return (e.value.code or 0, *capsys.readouterr())  # type: ignore[return-value]


def test_a_run_has_a_report_and_does_not_differ_from_itself(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (scenarios, suite):
        monkeypatch.setattr(module, "in_new_process", lambda function, *arguments: function(*arguments))
    out = tmp_path / "out"
    arguments = ["--precision", "int8", "--batch", "1,2", "--scenario", "single-stream,offline", "--seeds", "2", "--out", out]
    status, printed, _ = run(capsys, monkeypatch, "bench", bundle.path, *QUICK, *arguments)
    assert status == 0
    assert {f.name for f in out.iterdir()} >= {"results.json", "report.html", "latency.png", "throughput.png", "layers.png"}
    document = read_results(out / "results.json")
    assert len(document["rows"]) == 3
    for title in ("single-stream", "offline", "weak:"):
        assert title in printed
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1

    again = tmp_path / "again.json"
    again.write_text(json.dumps(document))
    status, printed, _ = run(
        capsys, monkeypatch, "bench", "compare", out / "results.json", again, "--html", tmp_path / "both.html"
    )
    assert status == 0
    assert printed.count("no significant difference") == 3
    assert "no significant difference" in (tmp_path / "both.html").read_text()
    status, _, _ = run(capsys, monkeypatch, "bench", "report", out / "results.json", "--out", tmp_path / "again.html")
    assert status == 0
    assert (tmp_path / "again.html").read_text() == page

    document["models"] = {name: m | {"weights": "0" * 16} for name, m in document["models"].items()}
    again.write_text(json.dumps(document))
    status, _, line = run(capsys, monkeypatch, "bench", "compare", out / "results.json", again)
    assert status == 2
    assert "different networks" in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--model"),
        (["BUNDLE", "--model", "sg2-256"], "--model"),
        (["--model", "sg3-256"], "sg2-256, sg2-512, sg2-1024"),
        (["--model", "sg2-256", "--precision", "fp4"], "fp4"),
        (["--model", "sg2-256,sg3-t-256", "--peers"], "sg3-t-256 is StyleGAN3"),
        (["--model", "sg1-1024", "--peers"], "sg1-1024 is StyleGAN1"),
        (["BUNDLE", "--scenario", "ofline"], "single-stream"),
        (["BUNDLE", "--form", "fused"], "portable"),
        (["BUNDLE", "--rounds", "0"], "rounds"),
        (["BUNDLE", "--seconds", "-1"], "seconds"),
        (["BUNDLE", "--json", "/proc/x/y.json"], "cannot write"),
        (["BUNDLE", "--out", "/proc/x"], "cannot write"),
        (["BUNDLE", "--backend", "abacus"], "abacus"),
        (["FILE"], "stylert export"),
        (["compare"], "files"),
        (["compare", "FILE", "FILE"], "is not a benchmark"),
        (["compare", "absent.json", "FILE"], "does not exist"),
        (["report", "FILE"], "is not a benchmark"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line(
    arguments: list[str],
    word: str,
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scenarios, "in_new_process", lambda *_: pytest.fail("a measurement began"))
    monkeypatch.setattr(suite, "in_new_process", lambda *_: pytest.fail("a measurement began"))
    paths = {"BUNDLE": bundle.path, "FILE": tmp_path / "file.json"}
    status, _, err = run(capsys, monkeypatch, "bench", *(paths.get(a, a) for a in arguments))
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert word in err


@pytest.mark.slow
def test_loadgen_judges_a_bundle(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlperf_loadgen")
    system = ["--backend", "onnxruntime", "--precision", "int8", "--threads", "1", "--batch", "1,2"]
    effort = ["--seconds", "0.1", "--runs", "5", "--server-qps", "20", "--p99", "5000"]
    files = ["--out", tmp_path / "out", "--json", tmp_path / "verdicts.json"]
    status, printed, notes = run(capsys, monkeypatch, "bench", bundle.path, "--loadgen", *system, *effort, *files)
    assert status == 1, notes  # two requests are no evidence for the server scenario, whatever the machine
    documents = json.loads((tmp_path / "verdicts.json").read_text())["loadgen"]
    assert [each["scenario"] for each in documents] == ["single-stream", "offline", "server"]
    for each in documents:
        summary = (tmp_path / "out" / f"loadgen-{each['scenario']}" / "mlperf_log_summary.txt").read_text()
        assert f"Result is : {each['verdict']}" in summary
        assert each["verdict"] in printed
        assert each["metric"] in printed
    assert "no submission" in printed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["BUNDLE", "--url", "http://x"], "--loadgen"),
        (["BUNDLE", "--server-qps", "3"], "--loadgen"),
        (["--loadgen"], "--url"),
        (["--loadgen", "--url", "ftp://x"], "--url"),
        (["--loadgen", "--url", "http://127.0.0.1:9", "--precision", "int8"], "--precision"),
        (["BUNDLE", "--loadgen", "--url", "http://127.0.0.1:9"], "bundle"),
        (["BUNDLE", "--loadgen", "--backend", "openvino,onnxruntime"], "one of the backends"),
        (["BUNDLE", "--loadgen", "--scenario", "build"], "single-stream"),
        (["BUNDLE", "--loadgen", "--seconds", "0"], "above 0"),
        (["BUNDLE", "--loadgen", "--json", "/proc/x/y.json"], "cannot write"),
    ],
    ids=" ".join,
)
def test_mistakes_about_loadgen_are_one_line(
    arguments: list[str], word: str, bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = run(capsys, monkeypatch, "bench", *(bundle.path if a == "BUNDLE" else a for a in arguments))
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert word in err


def test_a_standard_model_is_made_once_for_each_version_of_the_code(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def write(name: str, path: Path) -> None:
        made.append(name)
        path.write_bytes(checkpoint.read_bytes())

    monkeypatch.setattr(models, "write_standard", write)
    first = standard_model("sg2-256", ["fp32"], cache=tmp_path)
    assert standard_model("sg2-256", ["fp32"], cache=tmp_path).bundle == first.bundle
    assert made == ["sg2-256"]
    both = standard_model("sg2-256", ["bf16", "fp32"], cache=tmp_path)
    assert standard_model("sg2-256", ["bf16"], cache=tmp_path).bundle.path in (first.bundle.path, both.bundle.path)
    assert made == 2 * ["sg2-256"]  # a bundle with further precisions serves as well
    (both.bundle.path / "bundle.json").write_text("{")  # damaged, so it is made again
    assert standard_model("sg2-256", ["bf16", "fp32"], cache=tmp_path).bundle == both.bundle
    monkeypatch.setattr(models, "_sources_digest", lambda root: "other")
    second = standard_model("sg2-256", ["fp32"], cache=tmp_path)
    assert second.bundle.path != first.bundle.path
    assert first.bundle.path.exists()  # another checkout may use it
    assert second.checkpoint is not None
    assert second.checkpoint.is_file()
    assert second.checkpoint != first.checkpoint
    with pytest.raises(InputError):
        standard_model("sg2-2048", ["fp32"], cache=tmp_path)
