"""The decoder: its patterns, its ONNX graph, its whitening, and images that are a part of a whole one."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch

from stylert.core.errors import InputError
from stylert.runtime.watermark import decoder_graph, detector_file
from stylert.runtime.watermark.decoder_graph import decoder_model
from stylert.train.watermark import marking
from stylert.train.watermark import residual as of_training
from stylert.train.watermark.decoder import Decoder, whitening
from stylert.train.watermark.residual import ResidualNetwork, train_residual


@pytest.fixture(scope="module")
def network() -> ResidualNetwork:
    """A network of few steps, for images of 32 pixels."""
    return train_residual(images(400), 60, 1)


def images(count: int, side: int = 32) -> torch.Tensor:
    """Smooth images with a little noise, `[count, 3, side, side]`."""
    coarse = torch.nn.functional.interpolate(torch.randn(count, 3, 8, 8) * 0.5, (side, side), mode="bilinear")
    return (coarse + torch.randn(count, 3, side, side) * 0.03).clamp(-1, 1)


def no_views(bits: int) -> dict[str, np.ndarray]:
    """The weights of a detector without views."""
    return {"view_matrices": np.zeros((0, bits, bits), np.float32), "view_means": np.zeros((0, bits), np.float32)}


def test_the_patterns_are_orthonormal_and_hold_no_other_frequencies(network: ResidualNetwork) -> None:
    decoder = Decoder.draw(12, 32, 5, network)
    flat = decoder.patterns.reshape(12, -1)
    assert torch.allclose(flat @ flat.T, torch.eye(12), atol=1e-5)
    power = np.abs(np.fft.fft2(decoder.patterns.numpy())) ** 2
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None])
    outside = (radius < of_training.LOWEST) | (radius > of_training.HIGHEST)
    assert power[:, outside].sum() < 1e-9 * power.sum()
    assert torch.equal(decoder.patterns, Decoder.draw(12, 32, 5, network).patterns)
    assert not torch.allclose(decoder.patterns, Decoder.draw(12, 32, 6, network).patterns, atol=0.1)


def test_the_outputs_are_the_residual_times_the_patterns(network: ResidualNetwork) -> None:
    decoder, x = Decoder.draw(3, 24, 1, network), images(2, 24)
    decoder.bias += torch.tensor([0.5, -1, 2])
    expected = torch.einsum("nhw,bhw->nb", network(x), decoder.patterns) + torch.tensor([0.5, -1, 2])
    assert torch.allclose(decoder(x), expected, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (25, 32), (20, 27), (1, 1)])
def test_the_graph_reads_the_same_numbers_as_pytorch_at_every_place(network: ResidualNetwork, height: int, width: int) -> None:
    decoder = Decoder.draw(5, 32, 2, network).whiten(images(64))
    x = images(2)[:, :, :height, :width]
    session = onnxruntime.InferenceSession(decoder_model({**decoder.arrays(), **no_views(5)}, {}).SerializeToString())
    margins = np.array([0, 0, 32 - height, 32 - width] * 2, np.int64)
    (outputs,) = session.run(None, {"image": x.numpy(), "margins": margins})
    assert outputs.shape == (2, 5, 33 - height, 33 - width)
    for top in {0, 32 - height, (32 - height) // 2}:
        for left in {0, 32 - width}:
            # The convolution slides the pattern over the margins, so the last place is that of the first pixel.
            place = outputs[:, :, 32 - height - top, 32 - width - left]
            assert np.allclose(place, decoder(x, top, left).numpy(), atol=2e-4)


def test_both_forms_have_the_same_constants() -> None:
    assert (decoder_graph.DILATIONS, decoder_graph.SLOPE) == (of_training.DILATIONS, of_training.SLOPE)
    assert of_training.CHANNELS <= decoder_graph.MAX_CHANNELS
    assert detector_file.LEAST_SHARE == marking.LEAST_SHARE


def test_whitened_outputs_are_like_independent_coins(network: ResidualNetwork) -> None:
    x = images(400)
    decoder = Decoder.draw(6, 32, 3, network).whiten(x)
    outputs = decoder(x).numpy()
    assert np.allclose(outputs.mean(0), 0, atol=1e-3)
    assert np.allclose(np.cov(outputs.T), np.eye(6), atol=2e-2)


def test_a_covariance_of_few_outputs_is_mended() -> None:
    few = torch.randn(3, 8) * 5 + 2
    matrix, mean = whitening(few, 0.1)
    assert torch.allclose(mean, few.double().mean(0))
    assert torch.allclose(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix).max()) < 1.1 / float((0.1 * torch.cov(few.double().T).diagonal().mean()).sqrt())
    many = torch.randn(5000, 4) @ torch.randn(4, 4)
    matrix, mean = whitening(many)
    assert torch.allclose(torch.cov(matrix @ (many.double() - mean).T), torch.eye(4, dtype=torch.float64), atol=1e-6)


def test_a_pattern_in_an_image_is_read_as_its_bit(network: ResidualNetwork) -> None:
    decoder, signs = Decoder.draw(8, 32, 4, network).whiten(images(200)), torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    mark = torch.einsum("b,bhw->hw", signs, Decoder.draw(8, 32, 4, network).patterns)
    x = images(32) + mark / mark.square().mean().sqrt() * 0.04
    assert float(((decoder(x) > 0) == (signs > 0)).float().mean()) > 0.98
    assert float(((decoder(x[:, :, 3:29, 5:30], 3, 5) > 0) == (signs > 0)).float().mean()) > 0.95


def test_more_bits_than_an_image_holds_are_refused(network: ResidualNetwork) -> None:
    with pytest.raises(InputError, match="hold at most"):
        Decoder.draw(100, 16, 0, network)
    assert math.isfinite(float(Decoder.draw(8, 16, 0, network).patterns.sum()))
