"""DiffAugment: color keeps what it should, translation and cutout move and empty whole pixels."""

import numpy as np
import pytest
import torch

from stylert.train.augment import diffaug

SIZE = 16


@pytest.fixture
def images(rng, seed):
    torch.manual_seed(seed)
    return torch.from_numpy(rng.uniform(0.1, 1, (200, 3, SIZE, SIZE)))


def test_color_is_affine_in_the_pixels_of_an_image(images):
    changed = diffaug._change_color(images)
    grey, changed_grey = images.mean(1).flatten(1), changed.mean(1).flatten(1)
    for before, after in zip(grey.numpy(), changed_grey.numpy(), strict=True):
        slope, offset = np.polyfit(before, after, 1)
        np.testing.assert_allclose(after, slope * before + offset, atol=1e-9)
        assert 0.5 <= slope <= 1.5
    shift = (changed - images).mean((1, 2, 3))
    assert shift.abs().max() <= 0.5
    assert shift.std() == pytest.approx(1 / 12**0.5, rel=0.2)


def test_a_translation_moves_by_whole_pixels_up_to_an_eighth_and_fills_with_zeros(images):
    moved, offsets = diffaug._translate(images), set()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for image, result in zip(padded, moved, strict=True):
        matches = [(y, x) for y in range(5) for x in range(5) if torch.equal(image[:, y : y + SIZE, x : x + SIZE], result)]
        assert len(matches) == 1
        offsets.add(matches[0])
    assert len(offsets) == 25


def test_a_hole_is_a_rectangle_of_half_the_side_or_less(images):
    cut = diffaug._cut_out(images)
    empty = (cut == 0).all(1)
    assert torch.equal(torch.where(empty[:, None], 0.0, images), cut)
    rows, columns = empty.any(2).sum(1), empty.any(1).sum(1)
    assert torch.equal(empty.sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == SIZE // 2
    assert rows.min() >= SIZE // 4


def test_each_image_is_augmented_with_probability_p(images):
    result = diffaug.diffaugment(images, 0.3)
    same = (result == images).flatten(1).all(1)
    assert float(same.double().mean()) == pytest.approx(0.7, abs=0.15)
