"""The training step with augmentation, micro-batches, several processes, frozen layers and torch.compile."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from safetensors.torch import load_file

from stylert.core.errors import CheckpointError, InputError
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train import losses
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.parallel import Processes, launched_processes, process_group
from stylert.train.snapshots.trainer_state import restore_state, trainer_state
from stylert.train.trainer import Trainer

NETWORK = {"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1}


def config(w_avg_beta=0.9, **changes):
    run = {"batch": 8, "kimg": 0.02, "g_reg_interval": 2, "d_reg_interval": 3, "ema_kimg": 0.01, "ema_rampup": 0.5}
    return TrainConfig(
        GeneratorConfig(**NETWORK, z_dim=4, w_dim=4, w_avg_beta=w_avg_beta),
        DiscriminatorConfig(**NETWORK, mbstd_group_size=2),
        **(run | changes),
    )


@pytest.fixture
def data(rng, write_dataset):
    return write_dataset({f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(11)})


@pytest.fixture
def dataset(data):
    return ImageDataset(data)


def difference(a, b):
    """The largest difference of any tensor, relative to the largest value of that tensor."""
    return max(float((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1e-3)) for k in a if a[k].is_floating_point())


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_run_with_ada_resumes_exactly_also_between_two_adjustments(dataset, steps):
    cfg = config(aug="ada", ada_kimg=0.2, aug_p=0.3)
    straight, resumed = Trainer(cfg, dataset), Trainer(cfg, dataset)
    for _ in range(steps):
        straight.train_step()
    tensors, facts = trainer_state(straight)
    restore_state(resumed, {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(facts)))
    rng_state = torch.get_rng_state()
    expected = [(straight.train_step(), straight.aug_p) for _ in range(6)]
    torch.set_rng_state(rng_state)
    assert [(resumed.train_step(), resumed.aug_p) for _ in range(6)] == expected
    assert any(p != 0.3 for _, p in expected)  # p was adjusted
    for name, t in trainer_state(straight)[0].items():
        assert torch.equal(t, trainer_state(resumed)[0][name]), name


def test_without_a_state_of_ada_p_starts_at_aug_p_and_a_wrong_state_is_refused(dataset):
    plain = Trainer(config(), dataset)
    plain.train_step()
    tensors, facts = trainer_state(plain)
    assert facts == {"nimg": 8, "step": 1}
    adaptive = Trainer(config(aug="ada", aug_p=0.2), dataset)
    restore_state(adaptive, tensors, facts)
    assert adaptive.aug_p == 0.2
    for wrong in ({"p": 7}, [], "x"):
        with pytest.raises(CheckpointError, match="adaptive augmentation"):
            restore_state(adaptive, tensors, facts | {"ada": wrong})


def test_every_image_that_the_discriminator_sees_is_augmented(dataset, monkeypatch):
    calls = []

    def grey(images, p, pipeline):
        calls.append((len(images), p, pipeline))
        return images * 0

    monkeypatch.setattr("stylert.train.phase_losses.augment", grey)
    trainer = Trainer(config(aug="fixed", aug_p=0.4, aug_pipeline="bg"), dataset)
    stats = trainer.train_step()
    assert calls == [(8, 0.4, "bg")] * 4  # phase G: fake; phase D: fake and real; phase r1: real
    assert stats["r1"] == 0  # the gradient passes through the augmentation


def test_augmentation_with_p_zero_draws_no_random_numbers(dataset):
    plain, zero = Trainer(config(), dataset), Trainer(config(aug="fixed", aug_p=0.0), dataset)
    torch.manual_seed(1)
    first = plain.train_step()
    torch.manual_seed(1)
    assert zero.train_step() == first


def test_the_step_uses_the_mean_gradient_of_the_micro_batches(dataset, monkeypatch):
    """Two micro-batches with the same images and random numbers make the same step as one of them alone.

    The moving averages are held at their initial values, because every micro-batch updates them.
    """
    held = {"pl_decay": 0.0, "w_avg_beta": 1.0}
    monkeypatch.setattr(Trainer, "_seed_micro_batch", lambda self, phase, index: torch.manual_seed(self.step * 10 + 1))
    whole, parts = Trainer(config(batch=4, **held), dataset), Trainer(config(batch=8, batch_gpu=4, **held), dataset)
    parts.loader.batch = lambda position: (torch.cat([whole.loader._read(0)[0]] * 2), None)
    update = whole._run_phase  # a single micro-batch is not seeded anew in every phase; here it is
    monkeypatch.setattr(whole, "_run_phase", lambda phase, *a: (torch.manual_seed(1), update(phase, *a)))
    one, two = whole.train_step(), parts.train_step()
    assert one == pytest.approx(two, rel=1e-4)
    for network in ("G", "D"):
        assert difference(getattr(whole, network).state_dict(), getattr(parts, network).state_dict()) < 1e-4


def test_every_micro_batch_updates_the_moving_averages_in_every_phase_that_maps(dataset, monkeypatch):
    trainer, means, lengths = Trainer(config(batch_gpu=2), dataset), [], []
    mapping, penalty = trainer.G.mapping.forward, losses.path_length_penalty

    def recorded_mapping(z, c=None, update_w_avg=False):
        ws = mapping(z, c, update_w_avg=update_w_avg)
        if update_w_avg:
            means.append(ws[:, 0].detach().mean(0))
        return ws

    def recorded_penalty(generator, ws, pl_mean, *arguments):
        before = pl_mean.clone()
        value = penalty(generator, ws, pl_mean, *arguments)
        lengths.append((pl_mean - before * 0.99) / 0.01)
        return value

    monkeypatch.setattr(trainer.G.mapping, "forward", recorded_mapping)
    monkeypatch.setattr(losses, "path_length_penalty", recorded_penalty)
    trainer.train_step()
    assert len(means) == 3 * 4  # phases G, path_length and D, four micro-batches each
    assert len(lengths) == 4
    w_avg, pl_mean = torch.zeros(4), torch.zeros([])
    for mean in means:
        w_avg = w_avg.lerp(mean, 0.1)
    for length in lengths:
        pl_mean = pl_mean.lerp(length, 0.01)
    torch.testing.assert_close(trainer.G.mapping.w_avg, w_avg)
    torch.testing.assert_close(trainer.pl_mean, pl_mean)


def test_several_processes_take_the_mean_of_their_moving_averages(dataset):
    class TwoProcesses(Processes):
        """Process 0 beside another one with all values zero."""

        def sum(self, tensors):
            pass

    alone = Trainer(config(batch=4, batch_gpu=4), dataset)
    shared = Trainer(config(batch=8, batch_gpu=4), dataset, processes=TwoProcesses(0, 2))
    shared.loader.batch = alone.loader.batch
    for trainer in (alone, shared):
        images, _ = trainer.loader.batch(0)
        torch.manual_seed(1)
        trainer._seed_micro_batch = lambda phase, index: None
        trainer._run_phase("path_length", trainer.phase_losses.path_length, images, None, {})
    torch.testing.assert_close(shared.pl_mean, alone.pl_mean / 2)
    torch.testing.assert_close(shared.G.mapping.w_avg, alone.G.mapping.w_avg / 2)


def test_micro_batches_are_deterministic_and_resume_exactly(dataset):
    cfg = config(batch_gpu=2, aug="fixed", aug_p=0.5)
    a, b = Trainer(cfg, dataset), Trainer(cfg, dataset)
    for _ in range(2):
        a.train_step()
    tensors, facts = trainer_state(a)
    torch.manual_seed(99)
    restore_state(b, {k: v.clone() for k, v in tensors.items()}, facts)
    expected = a.train_step()
    torch.manual_seed(5)  # a step does not depend on earlier random numbers
    assert b.train_step() == expected


SCRIPT = """
import sys, torch
from safetensors.torch import save_file
from test_trainer import Trainer, ImageDataset, config, trainer_state
from stylert.train.parallel import process_group
torch.set_num_threads(1)
with process_group("cpu") as processes:
    # The moving averages are held, because their number of updates is the number of micro-batches of a process.
    cfg = config(batch_gpu=2, aug="ada", ada_kimg=0.2, aug_p=0.3, pl_decay=0.0, w_avg_beta=1.0)
    trainer = Trainer(cfg, ImageDataset(sys.argv[1]), processes=processes)
    stats = [trainer.train_step() for _ in range(5)]
    own = torch.tensor([list(s.values())[0] for s in stats] + [trainer.aug_p])
    tensors = {k: v.clone().contiguous() for k, v in trainer_state(trainer)[0].items() if k != "rng"}
    save_file(tensors | {"stats": own}, f"{sys.argv[2]}.{processes.rank}")
"""


@pytest.mark.long
def test_two_processes_make_the_same_steps_as_one(data, tmp_path):
    for world in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        (tmp_path / "run.py").write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{SCRIPT}")
        process = subprocess.run(
            [*command, tmp_path / "run.py", data, tmp_path / f"of{world}"], capture_output=True, text=True, timeout=1500
        )
        assert process.returncode == 0, process.stderr
    alone, first, second = (load_file(tmp_path / name) for name in ("of1.0", "of2.0", "of2.1"))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert abs(alone["stats"][-1] - 0.3) > 1e-6  # p was adjusted
    assert difference(alone, first) < 1e-3


def test_processes_that_cannot_share_a_batch_are_refused(dataset):
    with pytest.raises(InputError, match="3 processes cannot share a batch of 8"):
        Trainer(config(), dataset, processes=Processes(0, 3))


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "1"), ("x", "1")])
def test_a_wrong_rank_or_world_size_is_refused(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match="WORLD_SIZE"):
        launched_processes()


def test_processes_that_do_not_connect_are_refused_in_one_line(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="start them by torchrun") as e, process_group("cpu"):
        pass
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("count", [1, 3])
def test_frozen_layers_stay_and_the_others_change(dataset, count):
    trainer = Trainer(config(freeze_d=count), dataset)
    frozen = ["b8.fromrgb", "b8.conv0", "b8.conv1"][:count]
    before = {k: v.clone() for k, v in trainer.D.named_parameters()}
    for _ in range(2):
        trainer.train_step()
    for name, p in trainer.D.named_parameters():
        assert torch.equal(p, before[name]) == (name.rpartition(".")[0] in frozen), name
    resumed = Trainer(config(freeze_d=count), dataset)
    restore_state(resumed, *trainer_state(trainer))
    assert resumed.step == 2


def test_freezing_more_layers_than_there_are_is_refused(dataset):
    with pytest.raises(InputError, match="has 4"):
        Trainer(config(freeze_d=5), dataset)


def test_prefetched_batches_equal_those_read_on_demand(dataset):
    """Runs the thread that a GPU's loader has, on the CPU."""
    from concurrent.futures import ThreadPoolExecutor

    from stylert.train.data.loader import BatchLoader

    plain, ahead = (BatchLoader(dataset, torch.device("cpu"), 3, 4, 8) for _ in range(2))
    ahead.prefetch_thread = ThreadPoolExecutor(1)
    for position in (0, 8, 16, 4, 12):
        assert torch.equal(ahead.batch(position)[0], plain.batch(position)[0])
        assert ahead.prefetched[0] == position + 8


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_overflows_float16_costs_a_step_and_not_the_run(dataset, value):
    def step(half):
        trainer = Trainer(config(half=half), dataset)
        bias = trainer.G.synthesis.b8.conv1.bias
        bias.register_hook(lambda g: torch.full_like(g, value))
        trainer.train_step()
        return torch.isfinite(bias).all()

    assert step("fp16")
    assert not step("none")  # without float16 it is a mistake, which the next loss shows


def test_lazy_images_give_the_same_batches(data):
    in_memory, lazy = (Trainer(config(), ImageDataset(data, memory=memory)) for memory in (2**20, 0))
    assert torch.equal(in_memory.loader.batch(8)[0], lazy.loader.batch(8)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "generator",
    [
        "aot_eager",  # traces the same operations, within seconds
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                "STYLERT_TEST_INDUCTOR" not in os.environ, reason="compiles C++ for minutes: set STYLERT_TEST_INDUCTOR"
            ),
        ),
    ],
)
def test_compiled_networks_make_the_same_steps(dataset, generator):
    # Otherwise Inductor draws the noise from its own random generator.
    with inductor.patch(fallback_random=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=generator))
        statistics = []
        for compiled in (False, True):
            trainer = Trainer(config(), dataset, compiled=compiled)
            statistics.append([trainer.train_step() for _ in range(3)])
    scores = {f"{kind}_{value}" for kind in ("real", "fake") for value in ("score", "sign")}
    assert statistics[0][0].keys() == {"loss_G", "path_length", "loss_D", "r1", "grad_norm_G", "grad_norm_D"} | scores
    for plain, traced in zip(*statistics, strict=True):
        for name, value in plain.items():
            assert traced[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
