"""`Generator` makes the same images for the same seeds on every path, and refuses every mistake in one line."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.errors import BackendError, InputError, StylertError
from stylert.core.images.similarity import psnr
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.base import LoadOptions

EACH = [(b, p) for b in available_backends() for p in ("fp32", "int8")]


def greatest_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize(("name", "precision"), EACH)
def test_an_image_does_not_depend_on_its_batch(bundle: Bundle, name: str, precision: str) -> None:
    with Generator.load(bundle, name, precision) as g:
        together = g(range(17), psi=0.8)
        assert (together.shape, together.dtype) == ((17, 16, 16, 3), np.uint8)
        for n in (1, 2, 5):
            apart = np.concatenate([g(range(i, min(i + n, 17)), psi=0.8) for i in range(0, 17, n)])
            if precision == "int8":  # a difference in the last bit may cross the boundary between two 8-bit values
                each = [psnr(a, b) for a, b in zip(together, apart, strict=True)]
                assert np.mean(each) >= bundle.precision(precision).min_psnr_db
            else:
                assert greatest_difference(together, apart) <= 1


@pytest.mark.parametrize(("name", "precision"), EACH)
def test_calls_from_several_threads_give_the_images_of_calls_one_by_one(bundle: Bundle, name: str, precision: str) -> None:
    with Generator.load(bundle, name, precision) as g, ThreadPoolExecutor(4) as pool:
        alone = [g([s]) for s in range(12)]
        for image, expected in zip(pool.map(lambda s: g([s]), list(range(12)) * 3), alone * 3, strict=True):
            np.testing.assert_array_equal(image, expected)


def test_a_result_is_not_overwritten_by_the_next_call(bundle: Bundle) -> None:
    for name in available_backends():
        with Generator.load(bundle, name) as g:
            first = g([1])
            kept = first.copy()
            g([2])
            np.testing.assert_array_equal(first, kept)


def test_calling_a_generator_is_mapping_then_synthesis(bundle: Bundle) -> None:
    with Generator.load(bundle) as g:
        z = z_from_seeds([3, 4], 24)
        np.testing.assert_array_equal(g([3, 4], psi=0.5, cutoff=2), g.synthesize(g.map(z, psi=0.5, cutoff=2)))


def test_truncation_interpolates_to_the_average_and_stops_at_the_cutoff(bundle: Bundle) -> None:
    with Generator.load(bundle) as g:
        z = z_from_seeds([5, 6], 24)
        full, average, half = g.map(z), g.map(z, psi=0.0), g.map(z, psi=0.5)
        np.testing.assert_allclose(average[0], average[1], atol=1e-5)
        np.testing.assert_allclose(half, (full + average) / 2, atol=1e-5)
        cut = g.map(z, psi=0.5, cutoff=3)
        np.testing.assert_array_equal(cut[:, :3], half[:, :3])
        np.testing.assert_allclose(cut[:, 3:], full[:, 3:], atol=1e-6)
        np.testing.assert_allclose(g.map(z, psi=0.5, cutoff=0), full, atol=1e-6)


def test_labels_choose_the_class(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    conditional = export_bundle(make_checkpoint(c_dim=3), tmp_path / "b", ["fp32"])
    with Generator.load(conditional) as g:
        a = g([1, 1, 1], labels=[0, 1, 2])
        assert greatest_difference(a[0], a[1]) > 0
        np.testing.assert_array_equal(a, g([1, 1, 1], labels=np.eye(3)))
        for labels in (None, [0], [0, 1, 3], [0, 1, -1], [0.5, 1, 2], np.eye(4)[:3], np.full((3, 3), np.nan)):
            with pytest.raises(InputError):
                g([1, 1, 1], labels=labels)


def test_noise_inputs_are_taken_by_name_and_change_the_images(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    # As float: an image may be all black or all white, and then uint8 shows no noise.
    with Generator.load(export_bundle(make_checkpoint(), tmp_path / "b", ["fp32"], noise="input", output="float")) as g:
        sides = g.bundle.noise_inputs
        assert sides == {"noise_4_conv1": 4, "noise_8_conv0": 8, "noise_8_conv1": 8, "noise_16_conv0": 16, "noise_16_conv1": 16}
        noise = {n: rng.standard_normal((2, 1, r, r)) for n, r in sides.items()}
        quiet = {n: np.zeros_like(v) for n, v in noise.items()}
        assert np.abs(g([0, 1], noise=noise) - g([0, 1], noise=quiet)).max() > 0
        for bad in (
            None,
            {},
            {**noise, "noise_32_conv0": noise["noise_4_conv1"]},
            {**noise, "noise_8_conv0": noise["noise_4_conv1"]},
        ):
            with pytest.raises(InputError):
                g([0, 1], noise=bad)


@pytest.mark.parametrize("psi", ["0.7", None, float("nan"), float("inf"), True, 1j])
def test_psi_that_is_not_a_number_is_refused(bundle: Bundle, psi: object) -> None:
    with Generator.load(bundle) as g, pytest.raises(InputError, match="psi"):
        g([0], psi=psi)  # type: ignore[arg-type]


@pytest.mark.parametrize("cutoff", [-1, 7, 1.5, True, "2"])
def test_a_cutoff_out_of_range_is_refused(bundle: Bundle, cutoff: object) -> None:
    with Generator.load(bundle) as g, pytest.raises(InputError, match="cutoff"):
        g([0], cutoff=cutoff)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 30), max_size=4).map(tuple),
    dtype=st.sampled_from(["float16", "float32", "float64", "int32", "uint8", "bool", "complex64", "O", "U1"]),
)
def test_ws_of_any_other_shape_or_type_are_refused_in_one_line(bundle: Bundle, shape: tuple[int, ...], dtype: str) -> None:
    ws = np.zeros(shape, dtype)
    with Generator.load(bundle) as g:
        good = len(shape) == 3 and shape[0] > 0 and shape[1:] == (6, 20) and dtype.startswith("float")
        if good:
            g.synthesize(ws)
            return
        with pytest.raises(InputError) as e:
            g.synthesize(ws)
        assert "\n" not in str(e.value)


def test_values_that_are_not_finite_are_refused(bundle: Bundle) -> None:
    with Generator.load(bundle) as g:
        ws = g.map(z_from_seeds([0], 24))
        ws[0, 0, 0] = np.nan
        with pytest.raises(InputError, match="finite"):
            g.synthesize(ws)


def test_unknown_backends_and_missing_extras_say_what_to_do(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="onnxruntime"):
        Generator.load(bundle, "abacus")
    monkeypatch.setattr(backend("openvino"), "available", lambda: False)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[openvino\]'"):
        Generator.load(bundle, "openvino")


def test_a_network_that_the_backend_cannot_read_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a network")
    for name in available_backends():
        with pytest.raises(StylertError) as e:
            backend(name).load(tmp_path / "x.onnx", LoadOptions("fp32"))
        assert "\n" not in str(e.value)
