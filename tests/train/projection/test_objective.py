"""A loss compares images as they are shown: nothing is brighter than white or darker than black."""

from __future__ import annotations

import torch

from stylert.core.images.grids import as_uint8
from stylert.train.projection.objective import Objective
from tests.train.projection.pixel_distance import PixelDistance

OBJECTIVE = Objective(PixelDistance(), 3.0)


def test_images_that_look_the_same_have_no_loss() -> None:
    drawn = 3 * torch.randn(2, 3, 8, 8)
    shown = torch.from_numpy(as_uint8(drawn.numpy())).permute(0, 3, 1, 2)
    rows = [OBJECTIVE(drawn[i : i + 1], OBJECTIVE.target((shown[i : i + 1] - 127.5) / 127.5)) for i in range(2)]
    assert (torch.cat(rows) < 4 * (1 / 127.5) ** 2).all()  # 8 bits are half a step away at most
    assert (OBJECTIVE(drawn, OBJECTIVE.target(drawn)) < 1e-12).all()


def test_a_pixel_that_is_too_bright_has_a_gradient_unless_the_picture_is_white_there() -> None:
    target = OBJECTIVE.target(torch.tensor([1.0, -1.0, 0.5, 1.0]).reshape(1, 1, 2, 2))
    drawn = torch.tensor([1.5, -1.5, 1.5, -1.5]).reshape(1, 1, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(OBJECTIVE(drawn, target).sum(), drawn)
    assert (gradient != 0).flatten().tolist() == [False, False, True, True]


def test_elsewhere_the_loss_is_the_mean_of_squares() -> None:
    drawn, picture = 0.9 * torch.rand(2, 3, 4, 4), 0.9 * torch.rand(1, 3, 4, 4)
    expected = 4 * (drawn - picture).square().mean((1, 2, 3))
    torch.testing.assert_close(OBJECTIVE(drawn, OBJECTIVE.target(picture)), expected)
