"""The cost of a run is that of the phases that the trainer takes."""

import dataclasses
import resource

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stylert.core.errors import OutOfMemory
from stylert.core.machine import host
from stylert.models.stylegan2.networks import Generator
from stylert.train.configuration.presets import resolve
from stylert.train.data.dataset import ImageDataset
from stylert.train.loop import train
from stylert.train.run_cost import check_memory, training_cost
from stylert.train.trainer import Trainer

TINY = {"channel_base": 64, "channel_max": 8, "generator.z_dim": 8, "generator.w_dim": 8, "half": "none", "batch": 4}


VARIANTS = {
    "all": {"d_reg_interval": 1, "g_reg_interval": 1},
    "frozen": {"d_reg_interval": 1, "g_reg_interval": 1, "freeze_d": 2},
    "rare": {"d_reg_interval": 10, "g_reg_interval": 10},
    "without": {"r1_gamma": 0.0, "pl_weight": 0.0},
}


def config(**changes):
    return resolve("cpu-small", 8, 2, **(TINY | changes))


@pytest.fixture
def dataset(rng, write_dataset):
    images = {f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(6)}
    return ImageDataset(write_dataset(images, labels=[[name, i % 2] for i, name in enumerate(images)]), use_labels=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze_d": 2},
        {"projected": 32},
        {"projected": 32, "projected_pixels": 8},
        {"loss": "relativistic", "d_reg_interval": 2},
        {"loss": "hinge"},
    ],
)
def test_parameters_and_memory_are_those_of_a_trainer_after_its_first_step(dataset, changes):
    """Of the trainer, each tensor is counted: weights, moving averages, gradients and moments."""
    cfg = config(**changes)
    trainer, cost = Trainer(cfg, dataset), training_cost(cfg)
    trainer.train_step()
    trained = {name: sum(p.numel() for p in parameters.values()) for name, parameters in trainer.trainable.items()}
    assert (cost.parameters_G, cost.parameters_D) == (trained["G"], trained["D"])
    tensors = [p for network in (trainer.G, trainer.D, trainer.G_ema) for p in network.parameters()]
    tensors += [p.grad for parameters in trainer.trainable.values() for p in parameters.values()]
    for optimizer in (trainer.opt_G, trainer.opt_D):
        tensors += [t for slots in optimizer.state.values() for t in slots.values() if t.ndim]
    moments_of_scalars = 2 * sum(p.ndim == 0 for parameters in trainer.trainable.values() for p in parameters.values())
    assert cost.state_bytes == sum(t.nbytes for t in tensors) + 4 * moments_of_scalars
    assert cost.activation_bytes > 0


def test_fewer_trained_layers_and_rarer_regularisers_cost_less():
    macs = {name: training_cost(config(**changes)).macs_per_image for name, changes in VARIANTS.items()}
    assert macs["all"] > macs["frozen"]
    assert macs["all"] > macs["rare"] > macs["without"] > 0


def test_r2_costs_a_penalty_like_r1_and_its_generated_images():
    cfg = config(d_reg_interval=1)
    generator = Generator(cfg.generator)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.zeros(1, cfg.generator.z_dim), torch.zeros(1, cfg.generator.c_dim), noise_mode="random")
    without, r1, both = (
        training_cost(dataclasses.replace(cfg, r1_gamma=r1, r2_gamma=r2)).macs_per_image
        for r1, r2 in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    )
    assert both - r1 - (r1 - without) == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


@pytest.mark.parametrize("changes", [{"batch": 65536}, {"batch": 65536, "batch_gpu": 4}, {"batch": 64, "r1_gamma": 0.0}])
def test_a_step_that_cannot_fit_is_refused_before_it_takes_memory(monkeypatch, dataset, tmp_path, changes):
    cfg = config(**changes)
    cost = training_cost(cfg)
    needed = cost.state_bytes + cost.activation_bytes + cfg.batch * 3 * 8 * 8
    monkeypatch.setattr("stylert.train.run_cost._memory_bytes", lambda device: needed)
    check_memory(cfg, 1, "cpu")
    monkeypatch.setattr("stylert.train.run_cost._memory_bytes", lambda device: needed - 1)
    monkeypatch.setattr("stylert.train.loop.Trainer", lambda *args: pytest.fail("networks were made"))
    with pytest.raises(OutOfMemory, match=f"a training step of {cfg.batch} images, .* GiB") as e:
        train(cfg, dataset, tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_the_cost_of_a_small_batch_is_not_estimated(monkeypatch):
    monkeypatch.setattr("stylert.train.run_cost.training_cost", lambda *args: pytest.fail("it took seconds"))
    monkeypatch.setattr("stylert.train.run_cost._memory_bytes", lambda device: 2**33)
    check_memory(resolve("cpu", 64), 1, "cpu")
    monkeypatch.setattr("stylert.train.run_cost._memory_bytes", lambda device: None)
    check_memory(config(batch=65536), 1, "cpu")


def test_the_memory_is_that_of_the_machine_or_of_a_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "memory_bytes", lambda: (2**40, 2**30))
    monkeypatch.setattr(host, "CONTAINER_LIMITS", (tmp_path / "max", tmp_path / "none"))
    monkeypatch.setattr("resource.getrlimit", lambda number: (resource.RLIM_INFINITY,) * 2)
    (tmp_path / "max").write_text("max\n")
    assert host.memory_limit_bytes() == 2**40
    (tmp_path / "max").write_text(f"{2**34}\n")
    assert host.memory_limit_bytes() == 2**34
    monkeypatch.setattr("resource.getrlimit", lambda number: (2**32 if number == resource.RLIMIT_DATA else 2**33, 2**40))
    assert host.memory_limit_bytes() == 2**32


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_an_allocation_that_fails_in_a_step_ends_the_run_in_one_line(monkeypatch, dataset, tmp_path, error):
    cfg = config(kimg=0.004)
    train(cfg, dataset, tmp_path)
    snapshot = (tmp_path / "snapshot.safetensors").read_bytes()

    def fail(trainer):
        raise error

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(OutOfMemory, match="a training step of 4 images needs more memory than cpu has left"):
        train(dataclasses.replace(cfg, kimg=1), dataset, tmp_path, resume=tmp_path / "snapshot.safetensors")
    assert (tmp_path / "snapshot.safetensors").read_bytes() == snapshot


def test_other_errors_of_a_step_stay_what_they_are(monkeypatch, dataset, tmp_path):
    def fail(trainer):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(config(), dataset, tmp_path)
