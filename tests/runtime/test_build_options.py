"""Options of a build are read strictly: a value is used as given, or refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import InputError, StylertError
from stylert.runtime.backends import backend
from stylert.runtime.build_options import BuildOptions, check_fp8, parse_batch_ranges

RANGE = st.tuples(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096)).map(lambda t: tuple(sorted(t)))


@given(st.lists(RANGE, min_size=1, max_size=8).map(tuple))
def test_batch_ranges_are_read_as_written(ranges: tuple[tuple[int, int, int], ...]) -> None:
    """A range that is named twice counts once."""
    assert parse_batch_ranges(",".join(":".join(map(str, r)) for r in ranges)) == tuple(dict.fromkeys(ranges))
    fixed = dict.fromkeys((r[0], r[0], r[0]) for r in ranges)
    assert parse_batch_ranges(", ".join(str(r[0]) for r in ranges)) == tuple(fixed)
    assert BuildOptions(batch=ranges).profiles == ranges
    assert BuildOptions(batch=ranges[0]).profiles == ranges[:1]
    least, _, largest = ranges[0]
    if least < largest:
        with pytest.raises(InputError):
            BuildOptions(batch=(*ranges[1:], (largest, largest, least)))


@given(st.text(st.characters(codec="utf-8"), max_size=12) | st.from_regex(r"[0-9:,]{0,12}", fullmatch=True))
def test_any_text_is_read_as_batch_ranges_or_refused_in_one_line(text: str) -> None:
    try:
        ranges = parse_batch_ranges(text)
    except StylertError as e:
        assert "\n" not in str(e).replace(text, "")
        return
    parts = [[int(n) for n in part.split(":")] for part in text.split(",")]
    assert list(ranges) == list(dict.fromkeys(tuple(p * 3 if len(p) == 1 else p) for p in parts))


@pytest.mark.parametrize(
    "bad",
    [
        {"target": "sm89"},
        {"target": "SM_89"},
        {"target": ""},
        {"target": "sm_89\n"},
        {"batch": (0, 1, 2)},
        {"batch": (1, 2, 5000)},
        {"batch": ()},
        {"batch": ((1, 1, 1),) * 9},
        {"batch": ((1, 1, 1), (2, 1, 3))},
        {"level": 6},
        {"level": -1},
    ],
)
def test_options_without_a_meaning_for_any_backend_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        BuildOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"target": "sm_89"}, {"level": 3}, {"version_compatible": True}, {"stripped": True}, {"plugins": True}]
)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_cpu_backend_refuses_options_of_gpu_engines(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=name):
        backend(name).target(BuildOptions(**options))  # type: ignore[arg-type]


def test_fp8_is_refused_for_architectures_without_it() -> None:
    check_fp8("x", "fp8", ["sm_89", "sm_90", "sm_120"])
    check_fp8("x", "int8", ["sm_75"])
    with pytest.raises(InputError, match=r"sm_89 on.*not sm_80, sm_86"):
        check_fp8("x", "fp8", ["sm_80", "sm_86", "sm_89"])
    with pytest.raises(InputError, match="fp8 needs Ada"):
        backend("tensorrt-rtx").flags("fp8", BuildOptions(target="sm_80"))
