"""The device of a run is the CPU or a GPU that is there. Every other name is refused in one line."""

import pytest
import torch

from stylert.core.errors import InputError
from stylert.train.parallel import local_device


@pytest.fixture
def two_gpus(monkeypatch):
    current = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize(
    "name", ["mps", "xpu", "meta", "cpu:7", "cpu:0", "tpu", "", "cuda:", "cuda:-1", "cudax", "cuda:0:1", "CPU"]
)
def test_devices_that_train_no_network_here_are_refused(name, two_gpus):
    with pytest.raises(InputError, match=r"unknown device .*: use cpu, cuda, or cuda:0"):
        local_device(name)
    assert two_gpus == []


@pytest.mark.parametrize(("name", "local_rank", "device"), [("cuda", None, 0), ("cuda", "1", 1), ("cuda:1", "0", 1)])
def test_a_gpu_is_the_named_one_or_that_of_the_local_rank(name, local_rank, device, two_gpus, monkeypatch):
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert local_device(name) == f"cuda:{device}"
    assert two_gpus == [device]


@pytest.mark.parametrize(
    ("name", "local_rank"), [("cuda:2", "0"), ("cuda:9999", "0"), ("cuda", "2"), ("cuda", "-1"), ("cuda", "x")]
)
def test_a_gpu_that_is_not_there_is_refused(name, local_rank, two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(InputError, match=r"there is no GPU .*: this machine has 2, and the first is 0"):
        local_device(name)
    assert two_gpus == []


def test_without_a_gpu_the_cpu_is_advised(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device("cpu") == "cpu"
    with pytest.raises(InputError, match="no CUDA device is available: use --device cpu"):
        local_device("cuda:0")
