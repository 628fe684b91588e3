"""Transfer learning: a new run starts from the networks of another one, also at a higher resolution.

Tensors that match in name and shape are copied. The others keep their initial values.
When a skip generator grows, the RGB output of each new block starts at zero. So the first images are those of the
smaller network, upsampled, like a progressive growing (Karras et al. 2017) that needs no fade.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stylert.models.checkpoint import read_generator, read_metadata
from stylert.train.snapshot import load_tensors
from stylert.train.trainer import Trainer


@dataclass(frozen=True)
class TransferResult:
    """The outcome for one network.

    Attributes:
        network: G, D or G_ema.
        copied: Number of tensors that were copied.
        total: Number of tensors of the network.
        initial: Names of the tensors that kept their initial values.
    """

    network: str
    copied: int
    total: int
    initial: tuple[str, ...]

    def __str__(self) -> str:
        modules = sorted({name.rpartition(".")[0] for name in self.initial})
        rest = f"; new: {', '.join(modules)}" if modules else ""
        return f"{self.network}: {self.copied} of {self.total} tensors taken over{rest}"


def transfer(trainer: Trainer, path: str | Path) -> list[TransferResult]:
    """Copy the networks of a file into a trainer that has made no step. Optimizers and counters stay new.

    Args:
        trainer: The trainer of the new run.
        path: A training snapshot or a generator file. With a generator file, D keeps its initial values.

    Raises:
        CheckpointError: The file is damaged or of another kind.
    """
    results = []
    for name, tensors in _read_networks(path).items():
        network = getattr(trainer, name)
        result = _copy_matching(name, network, tensors)
        if name != "D":
            _zero_new_rgb_weights(network, result.initial)
        results.append(result)
    return results


def _read_networks(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each network in the file, by the network's name."""
    metadata = read_metadata(path)
    if metadata["kind"] != "training":
        generator = {k: torch.from_numpy(a) for k, a in read_generator(path).arrays.items()}
        return {"G": generator, "G_ema": generator}
    tensors = load_tensors(path, metadata)
    return {
        name: {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
        for name in ("G", "D", "G_ema")
    }


@torch.no_grad()
def _copy_matching(name: str, network: nn.Module, tensors: dict[str, Tensor]) -> TransferResult:
    state = network.state_dict()
    initial = []
    for key, target in state.items():
        source = tensors.get(key)
        if source is None or source.shape != target.shape:
            initial.append(key)
        else:
            target.copy_(source)
    return TransferResult(name, len(state) - len(initial), len(state), tuple(initial))


@torch.no_grad()
def _zero_new_rgb_weights(network: nn.Module, initial: tuple[str, ...]) -> None:
    # Without a copy of the first RGB layer, the whole output is new. With zero weights, the images would be empty.
    if "synthesis.b4.torgb.weight" in initial:
        return
    parameters = dict(network.named_parameters())
    for key in initial:
        if key.endswith(".torgb.weight"):
            parameters[key].zero_()
