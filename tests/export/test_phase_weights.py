"""The phase kernels compute what a transposed convolution computes, without and with the FIR."""

from __future__ import annotations

import numpy as np
import torch

from stylert.export.phase_weights import phase_weights, polyphase_weights


def test_phase_weights_are_the_transposed_convolution() -> None:
    weight = np.random.standard_normal((3, 2, 3, 3))
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    phases = torch.nn.functional.conv2d(x, torch.from_numpy(phase_weights(weight)), padding=1)
    shuffled = phases.reshape(1, 2, 2, 3, 6, 5).permute(0, 3, 4, 1, 5, 2).reshape(1, 3, 12, 10)
    full = torch.nn.functional.conv_transpose2d(x, torch.from_numpy(weight).transpose(0, 1), stride=2)
    torch.testing.assert_close(shuffled[:, :, :-1, :-1], full)
    assert shuffled[:, :, -1].abs().max() == 0
    assert shuffled[:, :, :, -1].abs().max() == 0


def test_polyphase_weights_are_the_transposed_convolution_and_the_filter() -> None:
    weight, taps = np.random.standard_normal((3, 2, 3, 3)), np.random.standard_normal((4, 4))
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    phases = torch.nn.functional.conv2d(x, torch.from_numpy(polyphase_weights(weight, taps)), padding=1)
    shuffled = phases.reshape(1, 2, 2, 3, 5, 4).permute(0, 3, 4, 1, 5, 2).reshape(1, 3, 10, 8)
    full = torch.nn.functional.conv_transpose2d(x, torch.from_numpy(weight).transpose(0, 1), stride=2)
    kernel = torch.from_numpy(np.tile(taps, (3, 1, 1, 1)))
    torch.testing.assert_close(shuffled, torch.nn.functional.conv2d(full, kernel, padding=1, groups=3))
