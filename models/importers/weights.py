"""From the tensors of a file to the arrays of a network, checked by name, shape and type."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.records import StoredTensor
from stylert.models.importers.settings import fir_filter
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, NORM_EPS, DiscriminatorConfig
from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE

Arrays = dict[str, np.ndarray]

#: Number of latents that `mean_latent` averages.
MEAN_LATENTS = 4096
#: Values of a batch of them, over all columns: 1 MiB.
BATCH_VALUES = 2**18
#: Entries of a file that are named in the notes as dropped.
MAX_NAMED = 10


@dataclass
class ImportedNetworks:
    """The networks of a file, in stylert's terms. Arrays are float32 under the official names.

    Attributes:
        config: Configuration of both generators.
        generator: The averaged generator, G_ema, which makes the images.
        raw: The generator as it was trained, G.
        discriminator_config: Configuration of the discriminator.
        discriminator: The discriminator, D.
        notes: Sentences for the user: the parts that were converted, dropped or assumed.
    """

    config: BaseGeneratorConfig
    generator: Arrays
    raw: Arrays | None = None
    discriminator_config: DiscriminatorConfig | None = None
    discriminator: Arrays | None = None
    notes: list[str] = field(default_factory=list)


class TensorReader:
    """Reads the tensors of one network by name, and keeps account of those that were read.

    Args:
        network: Name of the network in the file, for messages.
        tensors: Its tensors by name.
        budget: Memory that remains for arrays.
        title: The kind of the network, for messages.
    """

    def __init__(self, network: str, tensors: Mapping[str, StoredTensor], budget: Budget, title: str = "StyleGAN2") -> None:
        self.network, self.tensors, self.budget, self.title = network, tensors, budget, title
        self.known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor. Raises FormatError where it is missing, empty, or has other than `dimensions` dimensions."""
        if name not in self.tensors:
            raise FormatError(f"its {self.network} lacks the tensor {name}")
        shape = self.tensors[name].shape
        if len(shape) != dimensions or 0 in shape:
            raise FormatError(f"{self.network}: {name} is {list(shape)}, not of {dimensions} dimensions")
        return shape

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor as a float32 array.

        Raises:
            FormatError: It is missing, has another shape, or holds values that are not finite floats.
        """
        stored_shape = self.shape(name, len(shape))
        if stored_shape != shape:
            raise FormatError(f"{self.network}: {name} is {list(stored_shape)}, the network needs {list(shape)}")
        try:
            array = self.tensors[name].array(self.budget)
        except FormatError as e:
            raise FormatError(f"{self.network}: {name} {e}") from None
        if not np.isfinite(array).all():
            raise FormatError(f"{self.network}: {name} holds values that are not finite, or beyond float32")
        self.known.add(name)
        return array

    def constant(self, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """A float32 array that the file does not hold, counted as one of its arrays. `make` makes it."""
        self.budget.reserve(4 * math.prod(shape))
        return make()

    def ignore(self, names: Iterable[str]) -> None:
        """Count these tensors as known. They are not needed."""
        self.known.update(names)

    def check_all_known(self) -> None:
        """Raise UnsupportedNetworkError where a tensor was neither read nor ignored: then this is another network."""
        for name in sorted(set(self.tensors) - self.known):
            raise UnsupportedNetworkError(f"its {self.network} holds the tensor {printable(name)}, which no {self.title} has")


def network_arrays(
    shapes: Mapping[str, tuple[int, ...]],
    taps: tuple[float, ...],
    read: Callable[[str, tuple[int, ...]], np.ndarray],
    mapping_gain: float = 1.0,
) -> Arrays:
    """The arrays of a network under the official names.

    Args:
        shapes: Official name to shape, in the order of the result.
        taps: Taps of the FIR filter. Its buffers are computed, not read.
        read: Official name and shape to array.
        mapping_gain: Factor of the weights and biases of the mapping layers, see `settings.mapping_gain`.
    """
    arrays: Arrays = {}
    for name, shape in shapes.items():
        if name.endswith("resample_filter"):
            arrays[name] = fir_filter(taps)
        elif name.startswith("mapping.fc"):
            arrays[name] = read(name, shape)
            arrays[name] *= mapping_gain
        else:
            arrays[name] = read(name, shape)
    return arrays


@contextmanager
def drop_if_unsupported(network: str, notes: list[str]) -> Iterator[None]:
    """Note that a network is dropped where stylert cannot represent it. The rest of the file is imported."""
    try:
        yield
    except UnsupportedNetworkError as e:
        notes.append(f"dropped {network}: {e}")


def dropped_entries(names: Iterable[object]) -> list[str]:
    """Notes for the entries of a file that are not imported. At most `MAX_NAMED` of them are named."""
    printed = sorted(map(printable, names))
    notes = [f"dropped the entry {name}" for name in printed[:MAX_NAMED]]
    return notes + ([f"dropped {len(printed) - MAX_NAMED} more entries"] if len(printed) > MAX_NAMED else [])


def mean_latent(config: BaseGeneratorConfig, arrays: Arrays) -> np.ndarray:
    """The mean of w over `MEAN_LATENTS` z and labels from seed 0, float32 `[w_dim]`. For files without `w_avg`."""
    rng = np.random.default_rng(0)
    # In batches, so that wide networks need no more memory than narrow ones.
    width = max(config.z_dim + config.w_dim, config.c_dim)
    batch = min(max(BATCH_VALUES // width, 1), MEAN_LATENTS)
    total = np.zeros(config.w_dim)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, MEAN_LATENTS, batch):
            n = min(batch, MEAN_LATENTS - start)
            z = rng.standard_normal((n, config.z_dim), np.float32)
            labels = None
            if config.c_dim:
                labels = np.zeros((n, config.c_dim), np.float32)
                labels[np.arange(n), rng.integers(0, config.c_dim, n)] = 1
            total += _mapping(config, arrays, z, labels).sum(0, dtype=np.float64)
        average = (total / MEAN_LATENTS).astype(np.float32)
    if not np.isfinite(average).all():
        raise FormatError("its mapping network gives values that are not finite")
    return average


def _mapping(config: BaseGeneratorConfig, arrays: Arrays, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """`MappingNetwork` in NumPy: z `[N, z_dim]` and labels `[N, c_dim]` to w `[N, w_dim]`."""

    def normalized(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x).mean(1, keepdims=True) + NORM_EPS)

    def linear(x: np.ndarray, layer: str, lr: float) -> np.ndarray:
        weight, bias = arrays[f"mapping.{layer}.weight"], arrays[f"mapping.{layer}.bias"]
        return x @ weight.T * np.float32(lr / weight.shape[1] ** 0.5) + bias * np.float32(lr)

    w = normalized(z)
    if labels is not None:
        w = np.concatenate([w, normalized(linear(labels, "embed", 1.0))], axis=1)
    for i in range(config.mapping_layers):
        y = linear(w, f"fc{i}", MAPPING_LR_MULTIPLIER)
        w = np.where(y > 0, y, LRELU_SLOPE * y) * np.float32(ACTIVATION_GAIN["lrelu"])
    return w
