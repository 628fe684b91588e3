"""The whole state of a trainer as tensors and JSON values, and back, bit for bit."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from stylert.core.errors import CheckpointError
from stylert.train.trainer import Trainer

NETWORKS = ("G", "D", "G_ema")
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
#: Names of the snapshots that a run keeps by their kimg, which may have decimals.
KEPT_NAME = re.compile(r"snapshot-\d{6,}(?:\.\d{3})?\.safetensors")


def trainer_state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values from which `restore_state` restores a trainer, bit for bit. The tensors are no copies.

    Tensor names: `G.*`, `D.*` and `G_ema.*` for the networks, `opt_G.<slot>.<parameter>` and `opt_D.…` for Adam,
    `pl_mean`, and `rng` and `rng_cuda` for PyTorch's random state. The values are `nimg`, `step`, `ada` with ADA,
    `changes` after a resumed run changed settings, and `kept` if numbered snapshots are kept.
    """
    tensors: dict[str, Tensor] = {"pl_mean": trainer.pl_mean, "rng": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        tensors["rng_cuda"] = torch.cuda.get_rng_state(trainer.device)
    for name in NETWORKS:
        tensors |= {f"{name}.{k}": v for k, v in getattr(trainer, name).state_dict().items()}
    for name, parameters in trainer.trainable.items():
        names = {id(p): k for k, p in parameters.items()}
        for p, slots in getattr(trainer, f"opt_{name}").state.items():
            tensors |= {f"opt_{name}.{slot}.{names[id(p)]}": v for slot, v in slots.items()}
    facts: dict[str, Any] = {"nimg": trainer.nimg, "step": trainer.step}
    if trainer.ada is not None:
        facts["ada"] = trainer.ada.state()
    if trainer.changes:
        facts["changes"] = trainer.changes
    if trainer.kept:
        facts["kept"] = dict(trainer.kept)
    return tensors, facts


def restore_state(trainer: Trainer, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Restore what `trainer_state` returned.

    A state without ADA serves a trainer with ADA: its p then starts at `aug_p`. Adam's counters of a parameter may differ
    from those of others, as in snapshots of older versions.

    Args:
        trainer: A trainer with networks of the same configuration.
        tensors: The tensors.
        facts: The JSON values. `nimg` and `step` are whole numbers.

    Raises:
        CheckpointError: A tensor is missing, has another shape or type, or is not finite. Or the random state, the state of
            ADA, the list of changes or that of the numbered snapshots is not valid.
    """
    _check_tensors(trainer, tensors, is_new=facts["step"] == 0)
    changes = facts.get("changes", [])
    if not isinstance(changes, list):
        raise CheckpointError("the snapshot holds no valid list of changed settings")
    kept = facts.get("kept", {})
    if not isinstance(kept, dict) or not all(KEPT_NAME.fullmatch(name) and type(n) is int for name, n in kept.items()):
        raise CheckpointError("the snapshot holds no valid list of numbered snapshots")
    if trainer.ada is not None and "ada" in facts:
        try:
            trainer.ada.load_state(facts["ada"])
        except ValueError:
            raise CheckpointError("the snapshot holds no valid state of the adaptive augmentation") from None
    trainer.changes, trainer.kept = changes, dict(kept)
    trainer.nimg, trainer.step = int(facts["nimg"]), int(facts["step"])
    trainer.pl_mean.copy_(tensors["pl_mean"])
    for name in NETWORKS:
        network = getattr(trainer, name)
        network.load_state_dict({k: tensors[f"{name}.{k}"] for k in network.state_dict()})
    for name, parameters in trainer.trainable.items():
        for k, p in parameters.items():
            if slots := _adam_state(p, {slot: tensors.get(f"opt_{name}.{slot}.{k}") for slot in ADAM_STATE}):
                getattr(trainer, f"opt_{name}").state[p] = slots
    try:
        torch.set_rng_state(tensors["rng"].cpu())
        if "rng_cuda" in tensors and trainer.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"].cpu(), trainer.device)
    except (RuntimeError, TypeError):
        raise CheckpointError("the snapshot holds no valid random state") from None


def _check_tensors(trainer: Trainer, tensors: dict[str, Tensor], is_new: bool) -> None:
    """Check names, shapes, types and values. A run that has made no step needs no state of Adam."""
    expected = {"pl_mean": trainer.pl_mean, "rng": torch.get_rng_state()}
    for name in NETWORKS:
        expected |= {f"{name}.{k}": v for k, v in getattr(trainer, name).state_dict().items()}
    counter = torch.zeros([])  # Adam's steps
    for name, parameters in trainer.trainable.items():
        for k, p in parameters.items():
            for slot in ADAM_STATE:
                key = f"opt_{name}.{slot}.{k}"
                if key in tensors or not is_new:
                    expected[key] = counter if slot == "step" else p
    for name, own in sorted(expected.items()):
        if name not in tensors:
            raise CheckpointError(f"the snapshot lacks the tensor {name}")
        saved = tensors[name]
        if saved.shape != own.shape:
            raise CheckpointError(f"the snapshot's tensor {name} has the shape {list(saved.shape)}, not {list(own.shape)}")
        if saved.dtype != own.dtype:
            raise CheckpointError(f"the snapshot's tensor {name} is of type {saved.dtype}, not {own.dtype}")
    if (broken := not_finite({name: tensors[name] for name in expected})) is not None:
        raise CheckpointError(f"the snapshot's tensor {broken} holds values that are not finite")


def not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, or None."""
    return next((name for name, t in tensors.items() if not torch.isfinite(t).all()), None)


def _adam_state(p: torch.nn.Parameter, saved: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Adam's state of a parameter: its step counter, and its moments in the memory layout of the parameter.

    Empty if there is none, as before the first step.
    """
    state: dict[str, Tensor] = {}
    for slot, t in saved.items():
        if t is not None:
            state[slot] = t.to(p.device, copy=True) if slot == "step" else torch.empty_like(p).copy_(t)
    return state
