"""A drag: steps of motion supervision, each followed by point tracking, until the handles are at their targets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.grids import as_uint8
from stylert.core.images.handles import Handle, check_handles
from stylert.core.images.similarity import psnr
from stylert.core.progress import Progress
from stylert.train.dragging.features import FeatureSource
from stylert.train.dragging.motion import mask_loss, motion_loss, sample
from stylert.train.dragging.tracking import track

#: Why a drag ended: all handles are near enough, or a limit came first, or its caller wanted no more.
Ending = Literal["reached", "steps", "seconds", "stopped"]
#: The paper's radii of motion supervision and tracking, the side of its images, and the least radii.
PAPER_SUPERVISION, PAPER_TRACKING, PAPER_SIDE = 3, 12, 512
LEAST_SUPERVISION, LEAST_TRACKING = 2, 4
#: Greatest learning rate. Far greater ones overflow in the optimizer.
MAX_RATE = 1000


@dataclass(frozen=True)
class DragSettings:
    """Settings of `Dragger`.

    Attributes:
        steps: Steps, at most.
        seconds: Time on the clock, at most. A drag that ends by it depends on the machine.
        rate: Learning rate of Adam. The paper has 0.002, for networks of 512 px.
        mask_weight: Weight of the loss that keeps what is outside of the mask. The paper has 20.
        reach: Distance to its target in pixels at which a handle has arrived; half of its way, if that is shorter.
        supervision_radius: Pixels around a handle that are moved; None for the paper's 3 at 512 px, and 2 at least.
        tracking_radius: Pixels around a handle in which it is sought; None for the paper's 12 at 512 px, and 4 at least.

    Raises:
        InputError: A value is out of range.
    """

    steps: int = 300
    seconds: float = 20.0
    rate: float = 0.01
    mask_weight: float = 5.0
    reach: float = 1.0
    supervision_radius: int | None = None
    tracking_radius: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"a drag takes 1 step or more, not {self.steps}")
        for name in ("seconds", "rate", "reach"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"the {name} of a drag is above 0 and finite, not {getattr(self, name)}")
        if self.rate > MAX_RATE:
            raise InputError(f"the rate of a drag is at most {MAX_RATE}, not {self.rate}")
        if not 0 <= self.mask_weight < math.inf:
            raise InputError(f"the weight of the mask is 0 or more, not {self.mask_weight}")
        for radius in (self.supervision_radius, self.tracking_radius):
            if radius is not None and not 1 <= radius <= 128:
                raise InputError(f"a radius is 1 to 128 pixels, not {radius}")

    def radii(self, resolution: int) -> tuple[int, int]:
        """The radii of supervision and of tracking for images of a side."""
        supervision = max(LEAST_SUPERVISION, round(PAPER_SUPERVISION * resolution / PAPER_SIDE))
        tracking = max(LEAST_TRACKING, round(PAPER_TRACKING * resolution / PAPER_SIDE))
        return self.supervision_radius or supervision, self.tracking_radius or tracking


@dataclass(frozen=True)
class Drag:
    """The result of a drag.

    Attributes:
        ws: float32 `[num_ws, w_dim]`.
        before: The image before, uint8 `[R, R, C]`, with the network's constant noise.
        image: The image of `ws`.
        points: The place where tracking found each handle at the end, `[N, 2]`, x and y.
        distances: The distance of each to its target, in pixels.
        steps: Steps that were taken.
        ending: Why it ended.
        outside_psnr: The PSNR in dB of `image` to `before` outside of the mask. None without a mask.
    """

    ws: np.ndarray
    before: np.ndarray
    image: np.ndarray
    points: np.ndarray
    distances: tuple[float, ...]
    steps: int
    ending: Ending
    outside_psnr: float | None


class Dragger:
    """Drags points of the images of one network.

    Args:
        source: The network, frozen, on the CPU.
        settings: See `DragSettings`.
        network: sha256 of its checkpoint, for those who serve it.
    """

    def __init__(self, source: FeatureSource, settings: DragSettings, network: str = "") -> None:
        self.source, self.settings, self.network = source, settings, network

    def drag(
        self,
        ws: np.ndarray,
        handles: Sequence[Handle],
        mask: np.ndarray | None = None,
        *,
        seconds: float | None = None,
        progress: Progress | None = None,
        on_image: Callable[[np.ndarray], None] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Drag:
        """Drag. The same arguments give the same result, unless time or `is_stopped` ends it.

        Args:
            ws: The latents of the image, `[num_ws, w_dim]`.
            handles: Points and targets.
            mask: bool `[R, R]`, true where the image may change. Without it, all of it may.
            seconds: In place of those of the settings.
            progress: Called after each step.
            on_image: Called with the image of each step, uint8 `[R, R, C]`, from the first one on.
            is_stopped: Asked before each step whether to end.

        Raises:
            InputError: The handles are not valid, the mask has another shape or leaves nothing, or the drag leads to numbers that
                are not finite.
        """
        check_handles(handles, self.source.resolution)
        is_fixed = None if mask is None else _fixed(mask, self.source.resolution)
        end = time.monotonic() + (self.settings.seconds if seconds is None else seconds)
        supervision, tracking = self.settings.radii(self.source.resolution)
        start = torch.from_numpy(np.array(ws, np.float32))[None]
        moved = start[:, : self.source.latents].clone().requires_grad_()
        rest = start[:, self.source.latents :]
        optimizer = torch.optim.Adam([moved], self.settings.rate)
        points, targets = torch.tensor(handles).float().split(2, 1)
        with torch.no_grad():
            first, first_image = self.source(start)
            references = sample(first, points)
        # A way that is shorter than the reach is to be gone, too.
        reach = ((targets - points).norm(dim=1) / 2).clamp_max(self.settings.reach)
        step = 0
        while True:
            features, image = self.source(torch.cat([moved, rest], 1))
            if not bool(features.isfinite().all()):
                raise InputError("the drag leads to numbers that are not finite: choose a smaller rate")
            if step:
                points = track(features, references, points, tracking)
                if progress is not None:
                    progress("drag", step, self.settings.steps)
            if on_image is not None:
                on_image(_picture(image))
            distances = (targets - points).norm(dim=1)
            ending = self._ending(bool((distances <= reach).all()), step, end, is_stopped)
            if ending is not None:
                break
            loss = motion_loss(features, points, targets, supervision)
            if is_fixed is not None:
                loss = loss + self.settings.mask_weight * mask_loss(features, first, is_fixed)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        found, before, after = torch.cat([moved, rest], 1).detach()[0].numpy(), _picture(first_image), _picture(image)
        outside = None
        if mask is not None and not mask.all():
            outside = psnr(after[~mask], before[~mask])
        return Drag(found, before, after, points.numpy(), tuple(distances.tolist()), step, ending, outside)

    def _ending(self, is_reached: bool, step: int, end: float, is_stopped: Callable[[], bool]) -> Ending | None:
        if is_reached:
            return "reached"
        if step >= self.settings.steps:
            return "steps"
        if time.monotonic() >= end:
            return "seconds"
        return "stopped" if is_stopped() else None


def _picture(image: Tensor) -> np.ndarray:
    """The image `[1, C, R, R]` as uint8 `[R, R, C]`."""
    return as_uint8(image.detach().numpy())[0]


def _fixed(mask: np.ndarray, resolution: int) -> Tensor:
    """1 where the mask does not allow changes. Raises InputError for a mask of another shape, or one that allows none."""
    if mask.dtype != np.bool_ or mask.shape != (resolution, resolution):
        size = "x".join(map(str, mask.shape[::-1]))
        raise InputError(f"the mask is {size} and the image {resolution}x{resolution}: give one of the same size")
    if not mask.any():
        raise InputError("the mask is black everywhere, and the image may change where it is white")
    return torch.from_numpy(~mask).float()
