"""The part of a configuration that all networks share: checks of its fields, and its form in JSON. No torch."""

from __future__ import annotations

import dataclasses
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import msgspec

from stylert.core.errors import InputError
from stylert.core.images.channels import Channel
from stylert.core.ranges import check_ranges

#: Largest width of a layer, a latent or a label, and the largest number of classes.
MAX_WIDTH = 65536
#: Least and greatest value of the numbers that every network has. Larger numbers than any network needs would fill the
#: memory or overflow in float32, long after the configuration was read.
SHARED_RANGES: dict[str, tuple[float, float]] = {
    "resolution": (4, 4096),
    "z_dim": (1, MAX_WIDTH),
    "c_dim": (0, MAX_WIDTH),
    "w_dim": (1, MAX_WIDTH),
    "img_channels": (1, MAX_WIDTH),
    "channel_base": (1, MAX_WIDTH * 4096),
    "channel_max": (1, MAX_WIDTH),
    "mapping_layers": (1, 64),
    "w_avg_beta": (0, 1),
    "num_fp16_res": (0, 64),
    "conv_clamp": (1e-9, 1e9),
}

#: The field that names the network in JSON.
NETWORK_FIELD = "network"
#: The network of a configuration without that field: StyleGAN2's files are older than the field.
DEFAULT_NETWORK = "stylegan2"


class NetworkConfig:
    """The part of a configuration that generators and discriminators of all networks share."""

    #: The network in files, such as "stylegan3".
    network: ClassVar[str]
    #: Least and greatest value of each number.
    ranges: ClassVar[Mapping[str, tuple[float, float]]]

    resolution: int
    c_dim: int
    img_channels: int
    channel_base: int
    channel_max: int
    mapping_layers: int
    num_fp16_res: int
    conv_clamp: float | None
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # all subclasses are dataclasses

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if value is None and kind.endswith("| None"):
                continue
            if kind == "bool":
                require(isinstance(value, bool), f"{field.name} must be true or false")
            elif kind.startswith("int"):
                require(isinstance(value, int) and not isinstance(value, bool), f"{field.name} must be a whole number")
            elif kind.startswith("float"):
                require(is_finite(value), f"{field.name} must be a finite number")
        check_ranges(self, self.ranges)
        require(self.resolution & (self.resolution - 1) == 0, "resolution must be a power of two")

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return self.resolution

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return self.resolution

    @property
    def size_text(self) -> str:
        """The size of the image for messages: `64 px`, or width and height as `128x64 px`."""
        return f"{self.width} px" if self.width == self.height else f"{self.width}x{self.height} px"

    def require_usual_shape(self, purpose: str) -> None:
        """Raise InputError unless images are square with a power of two as their side. `purpose` names what needs that."""
        if (self.height, self.width) != (self.resolution, self.resolution):
            raise InputError(
                f"{purpose} takes square images whose side is a power of two, and this network has {self.size_text}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON, and the network unless it is `DEFAULT_NETWORK`."""
        named = {} if self.network == DEFAULT_NETWORK else {NETWORK_FIELD: self.network}
        return named | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, which JSON may have passed through.

        Raises:
            ValueError: A field is unknown, missing or wrong. The message names it.
        """
        fields = dict(data)
        network = fields.pop(NETWORK_FIELD, cls.network)
        if network != cls.network:
            raise ValueError(f"{NETWORK_FIELD} must be {cls.network!r}, not {network!r:.40}")
        unknown = sorted(set(map(str, fields)) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}")
        if "resolution" not in fields:
            raise ValueError("resolution is missing")
        return msgspec.convert(fields, cls)


class Layer(Protocol):
    """The part of a layer's description that all networks share."""

    @property
    def name(self) -> str: ...


class BaseGeneratorConfig(NetworkConfig, ABC):
    """The part of a configuration that all generators share: a mapping network, and a synthesis network of layers."""

    #: The name of the network for people.
    title: ClassVar[str]
    #: The channels of images of measured values; None for pictures.
    image_channels: tuple[Channel, ...] | None = None

    z_dim: int
    w_dim: int
    w_avg_beta: float

    @property
    @abstractmethod
    def form(self) -> str:
        """How the signal goes through the layers, in a word or two."""

    @property
    @abstractmethod
    def num_ws(self) -> int:
        """Latents of the synthesis network."""

    @abstractmethod
    def layers(self) -> Sequence[Layer]:
        """Every layer of the synthesis network, in the order in which the image meets it."""

    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of the synthesis network per image."""


def is_finite(value: object) -> bool:
    """Whether this is a number within the range of float64."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)
