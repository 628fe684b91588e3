"""What a build is told is read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.runtime.backends import backend
from stylert.runtime.build_options import BuildOptions, parse_batch_range
from stylert.runtime.errors import InputError, StylertError


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_a_batch_range_is_what_its_text_says(a: int, b: int, c: int) -> None:
    least, best, largest = sorted((a, b, c))
    assert parse_batch_range(f"{least}:{best}:{largest}") == (least, best, largest)
    assert parse_batch_range(str(a)) == (a, a, a)
    assert BuildOptions(batch=(least, best, largest)).batch == (least, best, largest)
    if len({a, b, c}) == 3:
        with pytest.raises(InputError):
            BuildOptions(batch=(largest, best, least))


@given(st.text(st.characters(codec="utf-8"), max_size=12) | st.from_regex(r"[0-9:]{0,12}", fullmatch=True))
def test_any_text_is_a_batch_range_or_one_line(text: str) -> None:
    try:
        batch = parse_batch_range(text)
    except StylertError as e:
        assert "\n" not in str(e).replace(text, "")
        return
    assert ":".join(map(str, batch)) in (":".join(p.lstrip("0") or "0" for p in text.split(":")), ":".join([str(batch[0])] * 3))


@pytest.mark.parametrize(
    "bad",
    [
        {"target": "sm89"},
        {"target": "SM_89"},
        {"target": ""},
        {"target": "sm_89\n"},
        {"batch": (0, 1, 2)},
        {"batch": (1, 2, 5000)},
        {"level": 6},
        {"level": -1},
    ],
)
def test_options_that_no_backend_could_mean_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        BuildOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"target": "sm_89"}, {"level": 3}, {"version_compatible": True}, {"plugins": True}])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_cpu_backend_refuses_what_only_a_gpu_engine_has(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=name):
        backend(name).target(BuildOptions(**options))  # type: ignore[arg-type]
