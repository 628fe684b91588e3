"""The content of `bundle.json`, as it is read: its fields, and the values that they may have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from stylert.core.errors import shown
from stylert.core.images.channels import Channel, check_channels_of_image
from stylert.runtime.bundle_files import EncoderEntry, FileEntry, PrecisionEntry, check_plain_name, check_word
from stylert.runtime.network_kinds import DEFAULT_NETWORK, NETWORK_KINDS

MAPPING_FILE = "mapping.onnx"
#: Sides of the learned constant of a square network, its greatest side in others, and that of an image.
CONST_SIDE, MAX_CONST_SIDE, MAX_SIDE = 4, 64, 4096
#: Limit of every size in the manifest, such as `z_dim`
MAX_SIZE = 2**20


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of the network that the runtime needs."""

    resolution: int
    z_dim: int
    c_dim: int
    w_dim: int
    img_channels: int
    network: str = DEFAULT_NETWORK
    const_height: int = CONST_SIDE
    const_width: int = CONST_SIDE

    def __post_init__(self) -> None:
        if self.network not in NETWORK_KINDS:
            raise ValueError(f"network is one of {', '.join(NETWORK_KINDS)}, not {shown(self.network)}")
        if not 4 <= self.resolution <= 4096 or self.resolution.bit_count() != 1:
            raise ValueError(f"resolution is a power of two from 4 to 4096, not {self.resolution}")
        for name in ("const_height", "const_width"):
            side = getattr(self, name)
            if not 1 <= side <= MAX_CONST_SIDE or side * self.resolution > CONST_SIDE * MAX_SIDE:
                raise ValueError(f"{name} is from 1 to {MAX_CONST_SIDE}, for images of at most {MAX_SIDE} px, not {side}")
        for name, least in (("z_dim", 1), ("c_dim", 0), ("w_dim", 1), ("img_channels", 1)):
            if not least <= getattr(self, name) <= MAX_SIZE:
                raise ValueError(f"{name} is from {least} to {MAX_SIZE}, not {getattr(self, name)}")


@dataclass(frozen=True)
class InputsAndOutput:
    """The tensors of its networks."""

    num_ws: int
    noise: Literal["const", "none", "input"]
    noise_inputs: dict[str, int]
    output: Literal["uint8", "float"]
    style_channels: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.style_channels <= MAX_SIZE:
            raise ValueError(f"style_channels is from 0 to {MAX_SIZE}, not {self.style_channels}")
        if bool(self.noise_inputs) != (self.noise == "input"):
            raise ValueError(f"noise is {self.noise!r} with {len(self.noise_inputs)} noise inputs")
        for name in self.noise_inputs:
            check_word(name)


@dataclass(frozen=True)
class Manifest:
    """The content of `bundle.json`."""

    schema: int
    model: ModelSizes
    io: InputsAndOutput
    files: dict[str, FileEntry]
    precisions: dict[str, PrecisionEntry]
    provenance: dict[str, Any]
    encoder: dict[str, EncoderEntry] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()

    def __post_init__(self) -> None:
        if self.channels:
            check_channels_of_image(self.channels, self.model.img_channels)
        kind = NETWORK_KINDS[self.model.network]
        if not kind.takes_latents(self.io.num_ws, self.model.resolution):
            raise ValueError(f"a {kind.title} network of {self.model.resolution} px has not {self.io.num_ws} latents")
        if wrong := [name for name, side in self.io.noise_inputs.items() if not 1 <= side <= self.model.resolution]:
            raise ValueError(f"noise input {wrong[0]} is larger than the image")
        for name in self.files:
            check_plain_name(name)
        if not self.precisions:
            raise ValueError("it has no precision")
        for name in (*self.precisions, *self.encoder):
            check_word(name)
        synthesis = {file for entry in self.precisions.values() for file in entry.files}
        needed = {MAPPING_FILE, *synthesis, *(entry.file for entry in self.encoder.values())}
        if unlisted := needed - set(self.files):
            raise ValueError(f"{min(unlisted)} is not listed under files")
