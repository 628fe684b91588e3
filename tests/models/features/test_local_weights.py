"""Local weights: damaged files and files that would run code are refused, and nothing runs."""

import pytest
import torch

from stylert.core.errors import InputError
from stylert.models.features.local_weights import read_weights


def test_a_file_that_would_run_code_is_refused_and_does_not_run(runs_code, tmp_path, capsys):
    torch.save({"features.0.weight": runs_code}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="plain tensors"):
        read_weights(tmp_path / "w.pth", "LPIPS")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_files_are_refused(tmp_path, rng, name):
    file = tmp_path / name
    for data in (b"", b"no weights", rng.bytes(200)):
        file.write_bytes(data)
        with pytest.raises(InputError, match=name):
            read_weights(file, "LPIPS")


def test_a_file_without_named_tensors_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="state dict"):
        read_weights(tmp_path / "list.pth", "LPIPS")
