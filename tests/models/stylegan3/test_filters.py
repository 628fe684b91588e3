"""The low-pass filters equal SciPy's, have unit sum, and pass and stop the bands that they should."""

from __future__ import annotations

import numpy as np
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.filters import down_filter, radial_lowpass, separable_lowpass, up_filter
from tests.models.stylegan3.float64_reference import filter_of
from tests.models.stylegan3.tiny import configurations


@settings(max_examples=100)
@given(
    taps=st.integers(1, 50), cutoff=st.floats(0.05, 0.45), half_width=st.floats(0.01, 0.5), rate=st.sampled_from([1, 16, 2048])
)
def test_filters_equal_scipy(taps: int, cutoff: float, half_width: float, rate: int) -> None:
    arguments = taps, cutoff * rate, half_width * rate, rate
    separable, radial = separable_lowpass(*arguments), radial_lowpass(*arguments)
    assert separable.dtype == radial.dtype == np.float32
    # The sum of a radial filter can be small beside its terms, and its division enlarges their rounding.
    exact = filter_of(*arguments, radial=False)
    np.testing.assert_allclose(np.outer(separable, separable), exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    exact = filter_of(*arguments, radial=True)
    np.testing.assert_allclose(radial, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    np.testing.assert_array_equal(separable, separable[::-1])
    np.testing.assert_allclose(radial, radial.T, rtol=0, atol=1e-7 * np.abs(exact).max())


@settings(max_examples=30)
@given(configurations())
def test_every_layer_has_the_filters_of_its_bands(cfg: GeneratorConfig) -> None:
    for layer in cfg.layers():
        up, down = up_filter(layer), down_filter(layer)
        assert (up is None) == (layer.up_taps == 1)
        assert (down is None) == (layer.down_taps == 1)
        for f in (up, down):
            assert f is None or abs(f.sum(dtype=np.float64) - 1) < 1e-6
        assert down is None or down.ndim == (2 if layer.is_radial else 1)


def test_the_filters_of_configuration_t_pass_the_band_and_stop_what_the_rate_cannot_hold() -> None:
    for layer in GeneratorConfig(256).layers()[:-1]:
        f = down_filter(layer)
        assert f is not None
        stop = min(layer.out_cutoff + layer.out_half_width, layer.inner_rate / 2)
        frequencies = np.array([0, 0.3 * layer.out_cutoff, layer.out_cutoff, stop])
        _, response = scipy.signal.freqz(f, worN=frequencies, fs=layer.inner_rate, include_nyquist=True)
        gains = np.abs(response)
        assert abs(gains[0] - 1) < 1e-5
        assert gains[1] > 0.9
        assert 0.4 < gains[2] < 0.8  # half of the amplitude at the cutoff, in the limit of a long filter
        assert gains[3] < 0.05
