"""A drag whose answer is known is found, and one of the trained cats brings its handle near while the rest stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.handles import Handle
from stylert.core.seeds import z_from_seeds
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.models.stylegan2.networks import Generator
from stylert.train.dragging.dragger import Drag, Dragger, DragSettings
from stylert.train.dragging.features import BlockFeatures, feature_side
from tests.models.stylegan2.tiny import tiny_generator

CATS = Path(__file__).parents[3] / "examples" / "cats64.safetensors"
EAR = Handle(54, 4, 54, 9)
STEPS = 60


class MovingBlob:
    """A network with a known answer: its first latent is the place of a blob, and its second one the color."""

    resolution, latents = 32, 1

    def __call__(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureSource`. Each channel is a bump of another width."""
        lines = torch.arange(32.0)
        x, y = lines[None, :] - 16 - ws[:, 0, 0, None, None], lines[:, None] - 16 - ws[:, 0, 1, None, None]
        maps = [torch.exp(-(x**2 + y**2) / (2 * width**2)) + 0.02 * (x + 2 * y) for width in (2.0, 4.0, 8.0)]
        return torch.stack(maps, 1), (torch.stack(maps, 1) * ws[:, 1, :1, None, None]).clamp(-1, 1)


@pytest.fixture(scope="module")
def cats() -> Generator:
    return generator_module(read_stylegan2_generator(CATS, "a test")).requires_grad_(False)


@pytest.fixture(scope="module")
def cat(cats: Generator) -> np.ndarray:
    return cats.mapping(torch.from_numpy(z_from_seeds([8], 512)), None, 0.7)[0].numpy()


def around(handle: Handle, radius: int, resolution: int = 64) -> np.ndarray:
    """A mask of a square around a handle."""
    mask = np.zeros((resolution, resolution), bool)
    x, y = int(handle.x), int(handle.y)
    mask[max(0, y - radius) : y + radius, max(0, x - radius) : x + radius] = True
    return mask


@pytest.mark.parametrize("target", [(22, 16), (16, 9), (11, 20)])
def test_a_blob_moves_to_its_target_and_its_latent_is_the_way(target: tuple[int, int]) -> None:
    run = Dragger(MovingBlob(), DragSettings(steps=300, rate=0.1, reach=0.5))
    found = run.drag(np.array([[0, 0], [0.5, 0.25]], np.float32), [Handle(16, 16, *target)])
    assert found.ending == "reached"
    assert found.distances == (0,)
    np.testing.assert_array_equal(found.points, [target])
    np.testing.assert_allclose(found.ws[0], np.array(target) - 16, atol=1)
    np.testing.assert_array_equal(found.ws[1], [0.5, 0.25])  # it has no part in the features


def test_a_way_shorter_than_the_reach_is_gone_too() -> None:
    found = Dragger(MovingBlob(), DragSettings(rate=0.1, reach=3)).drag(np.zeros((2, 2), np.float32), [Handle(16, 16, 18, 16)])
    assert found.steps > 0
    assert found.distances[0] <= 1


def test_the_same_drag_gives_the_same_bytes_and_limits_end_it(cats: Generator, cat: np.ndarray) -> None:
    run = Dragger(BlockFeatures(cats.synthesis), DragSettings(steps=4))
    images: list[np.ndarray] = []
    a, b = run.drag(cat, [EAR], on_image=images.append), run.drag(cat.copy(), [EAR])
    assert (a.ending, a.steps, a.outside_psnr) == ("steps", 4, None)
    assert (a.ws.tobytes(), a.image.tobytes(), a.distances) == (b.ws.tobytes(), b.image.tobytes(), b.distances)
    assert len(images) == 5
    np.testing.assert_array_equal(images[0], a.before)
    np.testing.assert_array_equal(images[-1], a.image)
    assert run.drag(cat, [EAR], seconds=0).ending == "seconds"
    asked: list[None] = []
    stopped = run.drag(cat, [EAR], is_stopped=lambda: asked.append(None) is None and len(asked) > 2)
    assert (stopped.ending, stopped.steps) == ("stopped", 2)


@pytest.fixture(scope="module")
def lowered_ear(cats: Generator, cat: np.ndarray) -> Drag:
    return Dragger(BlockFeatures(cats.synthesis), DragSettings(steps=STEPS)).drag(cat, [EAR], around(EAR, 12))


def test_a_cats_ear_comes_down(lowered_ear: Drag, cats: Generator, cat: np.ndarray) -> None:
    assert lowered_ear.distances[0] <= 0.4 * 5
    drawn = Dragger(BlockFeatures(cats.synthesis), DragSettings()).drag(lowered_ear.ws, [EAR], seconds=0)
    np.testing.assert_array_equal(drawn.before, lowered_ear.image)
    np.testing.assert_array_equal(lowered_ear.ws[7:], cat[7:])
    assert not np.array_equal(lowered_ear.ws[:7], cat[:7])


def test_the_mask_keeps_what_is_outside(lowered_ear: Drag, cats: Generator, cat: np.ndarray) -> None:
    assert lowered_ear.outside_psnr is not None
    assert lowered_ear.outside_psnr > 30
    mask = around(EAR, 12)
    free = Dragger(BlockFeatures(cats.synthesis), DragSettings(steps=STEPS, mask_weight=0)).drag(cat, [EAR], mask)
    assert free.outside_psnr is not None
    assert lowered_ear.outside_psnr > free.outside_psnr + 6


def test_a_mask_of_everything_leaves_nothing_outside(cats: Generator, cat: np.ndarray) -> None:
    run = Dragger(BlockFeatures(cats.synthesis), DragSettings(steps=1))
    assert run.drag(cat, [EAR], np.ones((64, 64), bool)).outside_psnr is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((64, 32), bool), "the mask is 32x64 and the image 64x64"),
        (np.ones((64, 64), np.uint8), "the mask is"),
        (np.zeros((64, 64), bool), "black everywhere"),
    ],
)
def test_masks_that_do_not_fit_are_refused(cats: Generator, cat: np.ndarray, mask: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dragger(BlockFeatures(cats.synthesis), DragSettings(steps=1)).drag(cat, [EAR], mask)


def test_latents_that_overflow_are_one_line(cats: Generator, cat: np.ndarray) -> None:
    with pytest.raises(InputError, match="not finite"):
        Dragger(BlockFeatures(cats.synthesis), DragSettings(steps=3)).drag(cat * np.float32(1e37), [EAR])


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"rate": -1},
        {"rate": 1e4},
        {"reach": float("inf")},
        {"mask_weight": -1},
        {"tracking_radius": 0},
        {"supervision_radius": 129},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        DragSettings(**settings)  # type: ignore[arg-type]


def test_radii_and_features_scale_with_the_image() -> None:
    assert [DragSettings().radii(side) for side in (16, 64, 256, 512, 1024)] == [(2, 4), (2, 4), (2, 6), (3, 12), (6, 24)]
    assert DragSettings(supervision_radius=1, tracking_radius=5).radii(64) == (1, 5)
    assert [feature_side(side) for side in (16, 32, 64, 128, 256, 512, 1024)] == [16, 32, 32, 32, 64, 128, 256]


def test_features_are_those_of_a_block_and_later_latents_have_no_part() -> None:
    torch.manual_seed(0)
    synthesis = tiny_generator().requires_grad_(False).synthesis
    source = BlockFeatures(synthesis, 8)
    ws = torch.randn(1, synthesis.cfg.num_ws, synthesis.cfg.w_dim)
    features, image = source(ws)
    assert (features.shape, source.latents) == ((1, synthesis.cfg.channels(8), 16, 16), 3)
    assert torch.equal(image, synthesis(ws, "const"))
    later = ws.clone()
    later[:, source.latents :] += 1
    assert torch.equal(source(later)[0], features)
    for i in range(source.latents):
        changed = ws.clone()
        changed[:, i] += 1
        assert not torch.equal(source(changed)[0], features)
    with pytest.raises(InputError, match="4, 8, 16 px, not 64"):
        BlockFeatures(synthesis, 64)
