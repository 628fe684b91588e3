"""Every argument of the Python interface that is wrong is one InputError of one line, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.benchmarks.models import user_model
from stylert.benchmarks.suite import Matrix, configurations
from stylert.core.errors import InputError, StylertError
from stylert.core.machine.host import most_threads
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.input_checks import one_hot
from stylert.runtime.media.recipes import Recipe


class Unprintable:
    """An object whose `repr` fails and whose iterator has nothing to give."""

    def __repr__(self) -> str:
        raise RuntimeError("no\ntext")

    def __array__(self, *arguments: object, **options: object) -> np.ndarray:
        raise RuntimeError("no\narray")


ANYTHING = st.one_of(
    st.sampled_from(
        [
            *(
                None,
                True,
                False,
                -1,
                0,
                10**400,
                10**5000,
                -(10**400),
                2**31,
                2**32,
                2**63,
                1e308,
                float("nan"),
                float("inf"),
                1j,
            ),
            *(
                "",
                "0",
                "auto",
                "a\nb",
                "\x1b[31m",
                "\0",
                b"x",
                object(),
                Unprintable(),
                [],
                {},
                (),
                set(),
                [[1], [1, 2]],
                [None],
                ["a"],
            ),
            *(
                range(0),
                iter([]),
                np.float64(1e300),
                np.array(None),
                np.array([1e300]),
                np.zeros((0, 3)),
                np.zeros((1, 6, 20), complex),
            ),
            *(
                np.full((1, 6, 20), 1e300),
                np.full((1, 24), -1e39),
                np.array(["a"]),
                np.array([{}]),
                np.zeros((2, 2), "M8[s]"),
                Path("x"),
            ),
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers() | st.floats() | st.none() | st.lists(st.integers(), max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none() | st.integers(), max_size=2),
)


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> Iterator[Generator]:
    with Generator.load(bundle) as g:
        yield g


@pytest.fixture(scope="module")
def conditional(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    """A network with three classes and noise inputs."""
    folder = tmp_path_factory.mktemp("conditional") / "bundle"
    with Generator.load(export_bundle(make_checkpoint(c_dim=3, resolution=8), folder, ["fp32"], noise="input")) as g:
        yield g


def right_or_refused(use: Callable[[], object]) -> None:
    try:
        use()
    except InputError as e:
        assert str(e).isprintable()
        assert len(str(e)) < 1000


@settings(max_examples=200)
@given(value=ANYTHING, name=st.sampled_from(["seeds", "psi", "cutoff", "labels", "noise"]))
def test_calls_work_or_refuse_any_value(plain: Generator, conditional: Generator, value: Any, name: str) -> None:
    right = {"seeds": [1], "psi": 0.5, "cutoff": None, "labels": None, "noise": None}
    right_or_refused(lambda: plain(**{**right, name: value}))
    noise = {n: np.zeros((1, 1, side, side), np.float32) for n, side in conditional.bundle.noise_inputs.items()}
    right_or_refused(lambda: conditional(**{**right, "labels": [0], "noise": noise, name: value}))


@settings(max_examples=200)
@given(value=ANYTHING)
def test_latents_streams_and_labels_work_or_refuse_any_value(plain: Generator, conditional: Generator, value: Any) -> None:
    right_or_refused(lambda: plain.map(value))
    right_or_refused(lambda: plain.synthesize(value))
    right_or_refused(lambda: list(plain.stream(value)))
    right_or_refused(lambda: list(plain.stream([value])))
    right_or_refused(lambda: list(plain.stream([], value)))
    right_or_refused(lambda: conditional.map(np.zeros((1, 24)), labels=value))
    noise = dict.fromkeys(conditional.bundle.noise_inputs, value)
    right_or_refused(lambda: conditional.synthesize(np.zeros((1, conditional.bundle.num_ws, 20)), noise))


@settings(max_examples=200)
@given(value=ANYTHING, name=st.sampled_from(["path", "backend", "precision", "threads", "hint"]))
def test_loading_refuses_any_wrong_value(bundle: Bundle, value: Any, name: str) -> None:
    right = {"path": bundle, "backend": "onnxruntime", "precision": "fp32", "threads": 1, "max_batch": None, "hint": "latency"}
    if (isinstance(value, str) and value == "auto") or (name == "threads" and type(value) is int and value == most_threads()):
        return  # right, but slow
    try:
        Generator.load(**{**right, name: value}).close()
    except StylertError as e:
        assert str(e).isprintable() or name == "path"  # the caller's own path stands in the message as it is


@pytest.mark.parametrize("threads", [0, -1, most_threads() + 1, 1024, 2**31, 10**400, 1.5, True, "2", [1]])
def test_a_number_of_threads_out_of_range_is_refused_by_loading_and_building(bundle: Bundle, threads: Any) -> None:
    """More than four threads on a core only wait for each other, and hundreds seem to hang."""
    for use in (
        lambda: Generator.load(bundle, threads=threads),
        lambda: BuildOptions(threads=threads),
        lambda: LoadOptions("fp32", threads),
        lambda: configurations([user_model(bundle.path)], Matrix(["onnxruntime"], threads=threads)),
    ):
        with pytest.raises(InputError, match=rf"threads is a whole number from 1 to {most_threads()} \(4 for each core"):
            use()


@pytest.mark.parametrize("cores", [1, 3, 96])
def test_the_limit_of_threads_follows_the_cores_that_the_process_may_use(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylert.core.machine.host.usable_cores", lambda: cores)
    assert LoadOptions("fp32", 4 * cores).threads == 4 * cores
    with pytest.raises(InputError, match=f"from 1 to {4 * cores} "):
        LoadOptions("fp32", 4 * cores + 1)


@pytest.mark.parametrize("psi", [10**400, -(10**400), 1e39, float("nan"), None])
def test_a_psi_beyond_float32_is_refused(plain: Generator, psi: Any) -> None:
    with pytest.raises(InputError, match="psi must be a finite number"):
        plain([0], psi=psi)
    with pytest.raises(InputError, match="psi"):
        Recipe(command="grid", bundle="0" * 64, backend="x", precision="fp32", seeds=(0,), psi=(psi,))


def test_values_of_float64_beyond_float32_are_refused_without_a_warning(plain: Generator, conditional: Generator) -> None:
    with pytest.raises(InputError, match="not finite in float32"):
        plain.synthesize(np.full((1, 6, 20), 1e39))
    with pytest.raises(InputError, match="not finite in float32"):
        conditional.map(np.zeros((1, 24)), labels=np.full((1, 3), 1e39))


def test_more_latents_than_memory_are_refused_in_one_line(plain: Generator) -> None:
    with pytest.raises(InputError, match=r"ws of shape \[1000000000000, 6, 20\] does not fit into memory"):
        plain.synthesize(np.broadcast_to(np.zeros((1, 6, 20)), (10**12, 6, 20)))
    with pytest.raises(InputError, match=r"z of shape .* does not fit into memory"):
        plain.map(np.broadcast_to(np.zeros(24), (10**12, 24)))


@pytest.mark.parametrize("value", [3e38, -3e38, 1.1e12])
def test_values_with_which_a_network_overflows_are_refused_and_make_no_black_image(
    plain: Generator, conditional: Generator, value: float
) -> None:
    for call in (
        lambda: plain.synthesize(np.full((1, 6, 20), value, np.float32)),
        lambda: plain.map(np.full((1, 24), value)),
        lambda: plain.map(np.zeros((1, 24)), psi=value),
        lambda: conditional.map(np.zeros((1, 24)), labels=np.full((1, 3), value)),
    ):
        with pytest.raises(InputError, match=r"beyond 1e\+12, with which a network overflows|psi is at most 1e\+12"):
            call()


def test_labels_that_are_no_array_and_labels_of_one_image_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="labels cannot be read as an array"):
        one_hot([[1], [1, 2]], 2, 3)  # type: ignore[list-item]
    with pytest.raises(InputError, match="labels must be 1 class from 0 to 2"):
        one_hot([7], 1, 3)


def test_labels_of_many_classes_need_memory_for_the_images_alone() -> None:
    assert one_hot([5, 7], 2, 2**20).nonzero()[1].tolist() == [5, 7]  # a square matrix of the classes would have 4 TiB
