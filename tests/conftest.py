"""Shared by all tests: the seed and the caches of the run, and a small random generator as arrays, checkpoint and bundle."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from dataclasses import fields
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from stylert.core.programs.stop_signals import STOP_SIGNALS
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import write_generator
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.state_dict import generator_shapes
from stylert.runtime.bundle import Bundle
from tests.draws import draws_of, fresh, run_seed, seed_everything

# Triton chooses between interpreter and compiler when a kernel is defined. This also holds for the kernels of Triton itself. In this
# process all kernels are interpreted, in any order of imports. A test that compiles kernels starts a process for it.
with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ImportError):
    patch.setenv("TRITON_INTERPRET", "1")
    import stylert.plugins.triton.bias_act
    import stylert.plugins.triton.modulated_conv2d
    import stylert.plugins.triton.upfirdn2d


# A deadline would be a timed assertion: a busy machine is no failure.
hypothesis.settings.register_profile("stylert", deadline=None)
hypothesis.settings.load_profile("stylert")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("hypothesis_seed") is None:
        config.option.hypothesis_seed = run_seed()
    if not hasattr(config, "workerinput"):  # the workers of xdist have the environment of this process
        _leave_the_home_folder_alone(config)


def _leave_the_home_folder_alone(config: pytest.Config) -> None:
    """Give the run caches of its own. Those of the user would decide results. Libraries that tests import write no identity."""
    folder = tempfile.mkdtemp(prefix="stylert-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["XDG_CACHE_HOME"] = folder
    os.environ["XDG_CONFIG_HOME"] = os.path.join(folder, "settings")  # a key of the user would sign what tests write
    os.environ.pop("STYLERT_SIGN", None)
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(folder, "triton"))
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TF_BUILD", "tests")  # OpenVINO's telemetry ends where continuous integration says its name


def pytest_report_header() -> str:
    return f"inputs drawn from STYLERT_TEST_SEED={run_seed()}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Ctrl-C ends the run after a test that called `cli.main`, which leaves its handlers of signals to the end of the process."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        return (yield)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed each test by its name, before its fixtures. So its inputs do not depend on the tests that ran before it."""
    seed_everything(item.nodeid)


def random_arrays(cfg: GeneratorConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights by name. As after training, no bias, noise strength or average has its initial value."""
    arrays = {}
    for name, shape in generator_shapes(cfg).items():
        values = rng.standard_normal(shape)
        if name.startswith("mapping.") and name.endswith("weight"):
            values = values * 100  # stored at the inverse of the layer's learning rate
        elif name.endswith("affine.bias"):
            values = 1 + 0.3 * values
        elif name.endswith(("torgb.weight", "torgb.bias")):
            values = 0.2 * values  # most pixels then lie within [-1, 1], as in images
        elif name.endswith("noise_strength"):
            values = 0.2 * values
        elif name.endswith("resample_filter"):
            values = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
        arrays[name] = np.asarray(values, np.float32)
    return arrays


def small_config(**changes: Any) -> GeneratorConfig:
    """A generator of 16 px with few channels. `changes` are fields of `GeneratorConfig`."""
    defaults: dict[str, Any] = {
        "resolution": 16,
        "z_dim": 24,
        "w_dim": 20,
        "channel_base": 512,
        "channel_max": 32,
        "mapping_layers": 2,
        "conv_clamp": 256.0,
    }
    return GeneratorConfig(**{**defaults, **changes})


def name_of_draws(cfg: GeneratorConfig) -> str:
    """The name of a network's random weights: its configuration, without later fields at their defaults, which change no network."""
    later = {"image_channels": None, "const_height": 4, "const_width": 4}
    given = [f"{f.name}={getattr(cfg, f.name)!r}" for f in fields(cfg) if (f.name, getattr(cfg, f.name)) not in later.items()]
    return f"GeneratorConfig({', '.join(given)})"


@pytest.fixture
def rng() -> np.random.Generator:
    """The random numbers of one test."""
    return fresh()


@pytest.fixture
def signing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a signing credential that signs during the test. `tmp_path / "certificates.pem"` is a copy of its chain."""
    from stylert.core.provenance.credentials import default_folder, write_test_credential

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    write_test_credential(default_folder())
    shutil.copy(default_folder() / "certificates.pem", tmp_path)
    return default_folder()


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a random generator, such as `make_checkpoint(resolution=8, c_dim=3)`.

    With `another=True` the same configuration gets other weights.
    """

    def make(another: bool = False, **changes: Any) -> Path:
        path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
        cfg = small_config(**changes)
        write_generator(path, cfg, random_arrays(cfg, draws_of(f"{name_of_draws(cfg)} {another}")))
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """A random generator with the configuration of `small_config`."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of `checkpoint` in fp32 and int8. A test that changes it copies it first."""
    return export_bundle(checkpoint, tmp_path_factory.mktemp("export") / "bundle")
