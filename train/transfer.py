"""Transfer learning: a new run starts from the networks of another one, also at a higher resolution.

Tensors that match in name and shape are copied. The others keep their initial values.
When a skip generator grows, the RGB output of each new block starts at zero. So the first images are those of the
smaller network, upsampled, like a progressive growing (Karras et al. 2017) that needs no fade.

The new run should have the values of `presets.FROM_TRAINED_NETWORKS`. They switch off the ramp-up of the moving average,
which would overwrite the copied G_ema with G.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stylert.models.checkpoint import read_metadata
from stylert.models.importers.import_checkpoint import import_checkpoint
from stylert.models.network_kinds import require_stylegan2
from stylert.train.snapshots.snapshot_file import read_tensors
from stylert.train.trainer import Trainer

#: `ImportedCheckpoint.format` of the files that stylert writes.
OWN_FORMAT = "stylert"


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
        path: As in `read_networks`. If it holds no D, D keeps its initial values.

    Raises:
        CheckpointError: The file is damaged or of another kind.
    """
    results = []
    for name, tensors in read_networks(path).items():
        network = getattr(trainer, name)
        result = _copy_matching(name, network, tensors)
        if name != "D":
            _zero_new_rgb_weights(network, result.initial)
        results.append(result)
    return results


def read_networks(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of the networks in a file: G and G_ema, and D where the file has it. A single generator is both.

    Args:
        path: A training snapshot, a generator file, or a checkpoint of another project that `stylert import` reads.

    Raises:
        CheckpointError: The file is damaged or of another kind.
        InputError: The file holds another network than StyleGAN2.
    """
    imported = import_checkpoint(path)
    require_stylegan2(imported.config, path, "training")
    if imported.format == OWN_FORMAT and read_metadata(path)["kind"] == "training":
        tensors = read_tensors(path)
        return {
            name: {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
            for name in ("G", "D", "G_ema")
        }
    arrays = {"G": imported.raw or imported.arrays, "D": imported.discriminator, "G_ema": imported.arrays}
    return {name: {k: torch.from_numpy(a) for k, a in own.items()} for name, own in arrays.items() if own is not None}


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
