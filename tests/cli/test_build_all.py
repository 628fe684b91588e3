"""`stylert build` of several engines: one that is refused does not stop the others, and a mistake is found before the first."""

from __future__ import annotations

from typing import Any

import pytest

from stylert.cli.pipeline import build
from stylert.core.errors import BackendError, BundleError, InputError
from stylert.runtime import Bundle


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The errors of `engine_key` and `build_engine` by precision, and the precisions that were built."""
    state: dict[str, Any] = {"key": {}, "build": {}, "built": []}

    def engine_key(bundle: Bundle, name: str, precision: str, options: object) -> None:
        if precision in state["key"]:
            raise state["key"][precision]

    def build_engine(bundle: Bundle, name: str, precision: str, *rest: object) -> dict[str, str]:
        if precision in state["build"]:
            raise state["build"][precision]
        state["built"].append(precision)
        return {"precision": precision}

    monkeypatch.setattr(build, "engine_key", engine_key)
    monkeypatch.setattr(build, "build_engine", build_engine)
    return state


@pytest.mark.parametrize("error", [BackendError("cannot be compiled"), BundleError("cannot be parsed")])
def test_a_network_that_a_compiler_refuses_does_not_stop_the_others(
    bundle: Bundle, attempts: dict[str, Any], error: Exception
) -> None:
    attempts["build"]["fp32"] = error
    facts, refused = build.build_all(bundle, ["openvino"], ["fp32", "int8"])
    assert (facts, refused) == ([{"precision": "int8"}], [str(error)])


def test_an_engine_that_is_refused_does_not_count_as_done(
    bundle: Bundle, attempts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    build.build_all(bundle, ["openvino"], ["fp32", "int8"])
    assert capsys.readouterr().err == "build engines: 2 done\n"
    attempts["build"]["fp32"] = BackendError("cannot be compiled")
    for precisions in (["fp32"], ["fp32", "int8"], ["int8", "fp32"]):
        build.build_all(bundle, ["openvino"], precisions)
        assert "done" not in capsys.readouterr().err


def test_a_precision_of_the_bundle_that_the_options_exclude_does_not_stop_the_others(
    bundle: Bundle, attempts: dict[str, Any]
) -> None:
    attempts["key"]["int8"] = InputError("--plugins is for fp32 and fp16")
    facts, refused = build.build_all(bundle, ["openvino"], None)
    assert (facts, refused) == ([{"precision": "fp32"}], ["--plugins is for fp32 and fp16"])
    with pytest.raises(InputError, match="--plugins is for"):
        build.build_all(bundle, ["openvino"], ["fp32", "int8"])  # the user named it
    assert attempts["built"] == ["fp32"]


def test_a_mistake_that_excludes_all_is_an_error_and_builds_nothing(bundle: Bundle, attempts: dict[str, Any]) -> None:
    attempts["key"] |= {"fp32": InputError("no such target"), "int8": InputError("no such target")}
    with pytest.raises(InputError, match="no such target"):
        build.build_all(bundle, ["openvino"], None)
    attempts["key"] = {"fp32": BackendError("not installed")}
    with pytest.raises(BackendError, match="not installed"):
        build.build_all(bundle, ["openvino"], None)
    assert attempts["built"] == []
