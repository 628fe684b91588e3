"""Transfer learning: a new run that starts from the networks of another one, also at a higher resolution.

The official tools start from a network of the same shape; here every tensor that fits by name and shape is taken over, and
the rest stays as initialised. A skip generator grows without a jump: the RGB output of each new block starts at zero, so
the first images are those of the smaller network, upsampled (the progressive growing of Karras et al. 2017, with nothing
to fade).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import check_digest, read_generator, read_metadata
from stylert.train.loop import Trainer


@dataclass(frozen=True)
class Taken:
    """What a network took over: how many of its tensors, and the names of those that stayed as initialised."""

    network: str
    tensors: int
    total: int
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        modules = sorted({name.rpartition(".")[0] for name in self.fresh})
        rest = f"; new: {', '.join(modules)}" if modules else ""
        return f"{self.network}: {self.tensors} of {self.total} tensors taken over{rest}"


def transfer(trainer: Trainer, path: str | Path) -> list[Taken]:
    """Take the networks of `path`, a training snapshot or a generator file, into a trainer that has made no step.

    A generator file gives G and G_ema, and leaves D as it is. Optimizers and counters start anew.

    Raises:
        CheckpointError: the file is damaged or of another kind.
    """
    taken = []
    for name, tensors in _networks(path).items():
        network = getattr(trainer, name)
        taken.append(_take(name, network, tensors))
        if name != "D":
            _silence_new_outputs(network, taken[-1].fresh)
    return taken


def _networks(path: str | Path) -> dict[str, dict[str, Tensor]]:
    metadata = read_metadata(path)
    if metadata["kind"] != "training":
        arrays = read_generator(path).arrays
        tensors = {k: torch.from_numpy(a) for k, a in arrays.items()}
        return {"G": tensors, "G_ema": tensors}
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path} is not a whole safetensors file: {e}") from None
    check_digest(path, metadata, "", {k: t.numpy() for k, t in tensors.items()})
    return {
        name: {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
        for name in ("G", "D", "G_ema")
    }


@torch.no_grad()
def _take(name: str, network: nn.Module, tensors: dict[str, Tensor]) -> Taken:
    fresh = []
    state = network.state_dict()
    for key, own in state.items():
        found = tensors.get(key)
        if found is None or found.shape != own.shape:
            fresh.append(key)
        else:
            own.copy_(found)
    return Taken(name, len(state) - len(fresh), len(state), tuple(fresh))


@torch.no_grad()
def _silence_new_outputs(network: nn.Module, fresh: tuple[str, ...]) -> None:
    parameters = dict(network.named_parameters())
    for key in fresh:
        # Not of a network that is new as a whole: its RGB layers are what its first images come from.
        if key.endswith(".torgb.weight") and "synthesis.b4.torgb.weight" not in fresh:
            parameters[key].zero_()
