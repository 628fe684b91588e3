"""The generator with the lowest first metric is kept, also over restarts."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.train.snapshots.best_snapshot import BEST_FILE, METRICS_FILE, NOISE, keep_if_best

values = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
def test_the_kept_file_is_the_first_with_the_lowest_finite_value(tmp_path_factory, measured):
    out = tmp_path_factory.mktemp("run")
    model = out / "model.safetensors"
    best = None
    for i, value in enumerate(measured):
        model.write_bytes(b"%d" % i)
        was_best = keep_if_best(out, model, i, {"FD": value, "KID": -i})
        earlier = [v for v in measured[:i] if np.isfinite(v)]
        assert was_best == (bool(np.isfinite(value)) and value < min(earlier, default=np.inf))
        best = i if was_best else best
    lines = [json.loads(line) for line in (out / METRICS_FILE).read_text().splitlines()]
    assert [line["kimg"] for line in lines] == list(range(len(measured)))
    if best is None:
        assert not (out / BEST_FILE).exists()
    else:
        assert (out / BEST_FILE).read_bytes() == b"%d" % best


@pytest.mark.parametrize("damage", ["", '{"kimg": 3, "F', "[1]\n", '{"kimg": 1, "FD": "x"}\n'])
def test_damaged_lines_are_ignored(tmp_path, damage):
    (tmp_path / "model.safetensors").write_bytes(b"a")
    keep_if_best(tmp_path, tmp_path / "model.safetensors", 1, {"FD": 5.0})
    with open(tmp_path / METRICS_FILE, "a") as f:
        f.write(damage + "\n")
    assert not keep_if_best(tmp_path, tmp_path / "model.safetensors", 2, {"FD": 6.0})
    assert keep_if_best(tmp_path, tmp_path / "model.safetensors", 3, {"FD": 4.0})


def test_a_value_of_another_noise_is_not_compared(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a")
    (tmp_path / METRICS_FILE).write_text('{"kimg": 1, "FD": 2.0, "best": true}\n')  # as an earlier version wrote it
    assert keep_if_best(tmp_path, tmp_path / "model.safetensors", 2, {"FD": 6.0})
    assert not keep_if_best(tmp_path, tmp_path / "model.safetensors", 3, {"FD": 7.0})
    assert [json.loads(line).get("noise") for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == [
        None,
        NOISE,
        NOISE,
    ]
