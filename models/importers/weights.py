"""From tensors of a file to arrays of a network: by name, shape and type, and never more than the file holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from stylert.models.importers.records import Allowance, Tensor
from stylert.models.importers.refusal import Refused, Unrepresentable, shown
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, DiscriminatorConfig, GeneratorConfig

Arrays = dict[str, np.ndarray]

#: Latents whose mean stands in for an average that the file does not keep.
MEAN_LATENTS = 4096


@dataclass
class Networks:
    """What a file holds. `generator` is the averaged one; `raw` is the one that was trained, of the same configuration."""

    config: GeneratorConfig
    generator: Arrays
    raw: Arrays | None = None
    discriminator_config: DiscriminatorConfig | None = None
    discriminator: Arrays | None = None
    notes: list[str] = field(default_factory=list)


class Taker:
    """Takes the tensors of one network by name; what is not taken in the end is a part that the network does not have."""

    def __init__(self, what: str, tensors: Mapping[str, Tensor], allowance: Allowance) -> None:
        self.what, self.tensors, self.allowance = what, tensors, allowance
        self.taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there and have this many dimensions."""
        if name not in self.tensors:
            raise Refused(f"its {self.what} lacks the tensor {name}")
        shape = self.tensors[name].shape
        if len(shape) != dimensions or 0 in shape:
            raise Refused(f"{self.what}: {name} is {list(shape)}, not of {dimensions} dimensions")
        return shape

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array of finite values. Raises Refused by name."""
        found = self.shape(name, len(shape))
        if found != shape:
            raise Refused(f"{self.what}: {name} is {list(found)}, the network needs {list(shape)}")
        try:
            array = self.tensors[name].array(self.allowance)
        except Refused as e:
            raise Refused(f"{self.what}: {name} {e}") from None
        if not np.isfinite(array).all():
            raise Refused(f"{self.what}: {name} holds values that are not finite, or beyond float32")
        self.taken.add(name)
        return array

    def leave(self, names: Iterable[str]) -> None:
        """These are known and not needed."""
        self.taken.update(names)

    def check_empty(self) -> None:
        """Raises Unrepresentable when a tensor is left over: then this is some other network."""
        for name in sorted(set(self.tensors) - self.taken):
            raise Unrepresentable(f"its {self.what} holds the tensor {shown(name)}, which no StyleGAN2 has")


def channel_plan(channels: Mapping[int, int], base: object = None, ceiling: object = None) -> dict[str, int]:
    """`channel_base` and `channel_max` that give these channels by resolution; `base` and `ceiling` where they do.

    Raises Unrepresentable when the channels do not follow min(base // resolution, max).
    """
    if type(base) is int and type(ceiling) is int and all(min(base // r, ceiling) == c for r, c in channels.items()):
        return {"channel_base": base, "channel_max": ceiling}
    most = max(channels.values())
    least_base = max(c * r for r, c in channels.items())
    if any(min(least_base // r, most) != c for r, c in channels.items()):
        raise Unrepresentable(f"its channels, {', '.join(f'{c} at {r} px' for r, c in channels.items())}, follow no base")
    return {"channel_base": least_base, "channel_max": most}


def fir_taps(f: np.ndarray, where: str) -> tuple[float, ...]:
    """The taps whose outer product, normalised, is this filter: [n, n], or [n] where it was kept separable."""
    f = f.astype(np.float64) / f.sum(dtype=np.float64)
    taps = f if f.ndim == 1 else f.sum(1)
    if f.ndim == 2 and not np.allclose(f, np.outer(taps, taps), rtol=1e-4, atol=1e-6):
        raise Unrepresentable(f"its filter {where} is not separable")
    whole = taps / np.abs(taps[np.abs(taps) > 1e-6]).min()
    return tuple(float(t) for t in (np.rint(whole) if np.allclose(whole, np.rint(whole), atol=1e-4) else taps))


def fir_filter(taps: tuple[float, ...]) -> np.ndarray:
    """The buffer that stands for taps in a state dict: float32 `[n, n]` with unit sum."""
    f = np.outer(taps, taps)
    return (f / f.sum()).astype(np.float32)


def mean_latent(config: GeneratorConfig, arrays: Arrays) -> np.ndarray:
    """The mean of w over `MEAN_LATENTS` z (and labels) of seed 0, for files that keep no average. float32 `[w_dim]`."""
    rng = np.random.default_rng(0)

    def normalized(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-8)

    def linear(x: np.ndarray, name: str, lr: float) -> np.ndarray:
        weight = arrays[f"mapping.{name}.weight"]
        return x @ weight.T * np.float32(lr / weight.shape[1] ** 0.5) + arrays[f"mapping.{name}.bias"] * np.float32(lr)

    # In parts, so that wide networks take no more memory than narrow ones.
    width = max(config.z_dim + config.w_dim, config.c_dim)
    rows = min(max(MEAN_LATENTS * 1024 // width, 1), MEAN_LATENTS)
    total = np.zeros(config.w_dim)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, MEAN_LATENTS, rows):
            n = min(rows, MEAN_LATENTS - start)
            w = normalized(rng.standard_normal((n, config.z_dim), np.float32))
            if config.c_dim:
                labels = np.zeros((n, config.c_dim), np.float32)
                labels[np.arange(n), rng.integers(0, config.c_dim, n)] = 1
                w = np.concatenate([w, normalized(linear(labels, "embed", 1.0))], axis=1)
            for i in range(config.mapping_layers):
                y = linear(w, f"fc{i}", MAPPING_LR_MULTIPLIER)
                w = np.where(y > 0, y, 0.2 * y) * np.float32(2**0.5)
            total += w.sum(0, dtype=np.float64)
        average = (total / MEAN_LATENTS).astype(np.float32)
    if not np.isfinite(average).all():
        raise Refused("its mapping network gives values that are not finite")
    return average
