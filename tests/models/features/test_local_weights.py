"""Local weights: damaged files and files that would run code are refused, and nothing runs."""

import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from stylert.core.errors import InputError
from stylert.models.features.local_weights import read_weights


def test_a_file_that_would_run_code_is_refused_and_does_not_run(runs_code, tmp_path, capsys):
    torch.save({"features.0.weight": runs_code}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="plain tensors"):
        read_weights(tmp_path / "w.pth", "LPIPS")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_a_torch_file_and_of_safetensors_are_read(tmp_path, rng, legacy):
    tensors = {
        "weight": torch.randn(3, 2).T,
        "half": torch.randn(4).half(),
        "bn.num_batches_tracked": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    save_file({k: t.detach().contiguous() for k, t in tensors.items()}, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        read = read_weights(tmp_path / name, "LPIPS")
        assert set(read) == set(tensors)
        for key, tensor in tensors.items():
            torch.testing.assert_close(read[key], tensor.detach(), rtol=0, atol=0, check_dtype=False)


def test_compressed_archives_and_pipes_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("w/data.pkl", bytes(10 * 2**20))
    with pytest.raises(InputError, match="compressed"):
        read_weights(tmp_path / "w.pth", "LPIPS")
    os.mkfifo(tmp_path / "pipe.pth")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.pth", tmp_path / "pipe.safetensors", "/dev/zero"):
        with pytest.raises(InputError, match="not a regular file"):
            read_weights(path, "LPIPS")


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


@pytest.mark.parametrize("error", [RuntimeError("unable to mmap 7526091155 bytes: Cannot allocate memory"), OSError("gone")])
def test_a_file_that_cannot_be_mapped_is_refused_in_one_line(tmp_path, monkeypatch, error):
    def fail(path):
        raise error

    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    monkeypatch.setattr("stylert.models.features.local_weights.load_file", fail)
    with pytest.raises(InputError, match=f"w.safetensors .*: {error}"):
        read_weights(path, "VGG")
