"""Checkpoints: a round trip is exact, and every damage raises CheckpointError."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from stylert.core.errors import CheckpointError
from stylert.models import checkpoint
from stylert.models.checkpoint import load_generator, read_generator, read_metadata, trained_kimg, write_generator
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.models.stylegan2.state_dict import generator_shapes
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.snapshots import snapshot_file

CFG = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=2, channel_base=32, channel_max=3, mapping_layers=1)
many_examples = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def generator(rng, randomize):
    return randomize(Generator(CFG)).eval()


@pytest.fixture
def arrays(generator):
    return {k: v.numpy() for k, v in generator.state_dict().items()}


@pytest.fixture
def path(arrays, tmp_path):
    path = tmp_path / "model.safetensors"
    write_generator(path, CFG, arrays, info={"kimg": 3})
    return path


def refusal(path):
    """The message with which this file is refused."""
    with pytest.raises(CheckpointError) as e:
        read_generator(path)
    assert "\n" not in str(e.value)
    assert str(path) in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("change", [os.unlink, lambda path: os.truncate(path, 100)], ids=["removed", "shortened"])
def test_a_file_that_changes_after_its_metadata_was_read_is_refused_in_one_line(path, monkeypatch, change):
    def read_then_change(name):
        metadata = read_metadata(name)
        change(name)
        return metadata

    monkeypatch.setattr(checkpoint, "read_metadata", read_then_change)
    assert "is not a whole safetensors file" in refusal(path)


def test_round_trip_is_exact(arrays, path):
    weights = read_generator(path)
    assert (weights.config, weights.info) == (CFG, {"kimg": 3})
    assert set(weights.arrays) == set(arrays)
    for name, array in weights.arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, arrays[name])


def test_round_trip_in_half_is_within_its_rounding(arrays, path, tmp_path):
    half = tmp_path / "half.safetensors"
    write_generator(half, CFG, arrays, half=True)
    for name, array in read_generator(half).arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, arrays[name], rtol=2**-11, atol=2**-25)
    assert half.stat().st_size < path.stat().st_size


def test_the_same_generator_writes_the_same_bytes(arrays, path, tmp_path):
    again = tmp_path / "again.safetensors"
    write_generator(again, CFG, arrays, info={"kimg": 3})
    assert again.read_bytes() == path.read_bytes()


def test_a_loaded_generator_makes_the_same_images(generator, path):
    loaded = load_generator(path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    z, c = torch.randn(3, 4), torch.eye(2)[[0, 1, 1]]
    assert torch.equal(loaded(z, c, psi=0.7), generator(z, c, psi=0.7))


def test_a_training_file_gives_its_averaged_generator(generator, arrays, tmp_path):
    train = TrainConfig(CFG, DiscriminatorConfig(8, channel_base=32, channel_max=3), batch=4, kimg=1)
    tensors = {f"G_ema.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"G.{k}": torch.zeros_like(v) for k, v in generator.state_dict().items()}
    snapshot_file.write_snapshot(tmp_path / "s.safetensors", train, tensors, {})
    for name, array in read_generator(tmp_path / "s.safetensors").arrays.items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize(("facts", "kimg"), [({"nimg": 1500}, 1.5), ({}, None), ({"nimg": "x"}, None), ({"nimg": True}, None)])
def test_the_length_of_a_run_is_a_number_or_refused(generator, path, tmp_path, facts, kimg):
    train = TrainConfig(CFG, DiscriminatorConfig(8, channel_base=32, channel_max=3), batch=4, kimg=1)
    tensors = {f"G_ema.{k}": v for k, v in generator.state_dict().items()}
    snapshot_file.write_snapshot(tmp_path / "s.safetensors", train, tensors, facts)
    if kimg is None:
        with pytest.raises(CheckpointError, match="does not tell how many images"):
            trained_kimg(tmp_path / "s.safetensors")
    else:
        assert trained_kimg(tmp_path / "s.safetensors") == kimg
    assert trained_kimg(path) is None


def test_missing_files_and_folders_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.safetensors")
    assert "is a folder, not a file" in refusal(tmp_path)
    (tmp_path / "empty.safetensors").touch()
    assert "not a whole safetensors" in refusal(tmp_path / "empty.safetensors")


@many_examples
@given(st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_refused(path, whole, fraction):
    path.write_bytes(whole[: int(fraction * len(whole))])
    assert "not a whole safetensors" in refusal(path)


class FileBytes(bytes):
    """The bytes of a file, which pytest prints in a few words."""

    def __repr__(self):
        return "the whole file"


@pytest.fixture
def whole(path):
    return FileBytes(path.read_bytes())


def read_or_refuse(path, data):
    """Write the data and read them. Any other error than CheckpointError fails the test."""
    path.write_bytes(data)
    try:
        for array in read_generator(path).arrays.values():
            assert np.isfinite(array).all()
    except CheckpointError as e:
        assert "\n" not in str(e)


@many_examples
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_read_or_refused(path, whole, flips):
    data = bytearray(whole)
    for fraction, mask in flips:
        data[int(fraction * len(data))] ^= mask
    read_or_refuse(path, data)


@many_examples
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_one_changed_bit_of_a_weight_is_refused(path, whole, fraction, bit):
    (header,) = struct.unpack("<Q", whole[:8])
    data = bytearray(whole)
    data[8 + header + int(fraction * (len(data) - 8 - header))] ^= 1 << bit
    path.write_bytes(data)
    assert "sha256" in (message := refusal(path)) or "not finite" in message


@many_examples
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(32, 126)), min_size=1, max_size=3))
def test_other_letters_in_the_header_are_read_or_refused(path, whole, letters):
    data = bytearray(whole)
    (size,) = struct.unpack("<Q", whole[:8])
    for fraction, letter in letters:
        data[8 + int(fraction * size)] = letter
    read_or_refuse(path, data)


def rewrite(path, change_tensors=lambda t: t, change_metadata=lambda m: m):
    tensors, metadata = change_tensors(load_file(path)), change_metadata(read_metadata(path))
    save_file(tensors, path, {"stylert": metadata if isinstance(metadata, str) else json.dumps(metadata)})


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(generator_shapes(CFG))), damage=st.sampled_from(["missing", "shape", "nan", "inf", "type"]))
def test_every_wrong_tensor_is_refused_by_name(path, whole, name, damage):
    path.write_bytes(whole)

    def change(tensors):
        t = tensors.pop(name)
        bad = {"shape": t[None], "nan": np.full_like(t, np.nan), "inf": np.full_like(t, np.inf), "type": t.astype(np.int32)}
        return tensors if damage == "missing" else tensors | {name: bad[damage]}

    rewrite(path, change)
    assert name in refusal(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "discriminator", "'discriminator' - at `$.kind`"),
        ("kind", ["generator"], "$.kind"),
        ("version", 2, "format version 2"),
        ("version", None, "$.version"),
        ("version", 1.5, "$.version"),
        ("version", 10**400, "digits"),
        ("generator", None, "$.generator"),
        ("generator", [1], "$.generator"),
        ("info", "x", "$.info"),
        ("info", 5, "$.info"),
        ("info", {"x": 10**400}, "digits"),
        ("info", {"x": float("nan")}, "not valid"),
        ("sha256", {"": 3}, "$.sha256"),
        ("sha256", [], "$.sha256"),
        ("facts", 3, "$.facts"),
        ("train", None, "$.train"),
        ("generator", {"resolution": 8, "colour": 1}, "colour"),
        ("generator", {"resolution": 12}, "power of two"),
        ("generator", {"resolution": "8"}, "$.resolution"),
        ("generator", {"resolution": True}, "$.resolution"),
        ("generator", {"resolution": 8, "z_dim": 2**31}, "z_dim must lie"),
        ("generator", {"resolution": 8, "resample_filter": 3}, "$.resample_filter"),
        ("generator", {"resolution": 8, "resample_filter": [10**400]}, "digits"),
        ("generator", {"resolution": 8, "resample_filter": [1e308] * 3}, "finite sum"),
        ("generator", {"resolution": 8, "resample_filter": [1] * 65}, "more than 64 taps"),
        ("generator", {"resolution": 8, "conv_clamp": "much"}, "$.conv_clamp"),
        ("generator", {"resolution": 8, "conv_clamp": 10**400}, "digits"),
        ("generator", {"resolution": 8, "conv_clamp": float("inf")}, "not valid"),
        ("generator", {"resolution": 8, "conv_clamp": float("nan")}, "not valid"),
        ("generator", {**CFG.to_dict(), "w_dim": 5}, "its configuration says"),
    ],
)
def test_wrong_metadata_is_refused(path, field, value, message):
    rewrite(path, change_metadata=lambda m: m | {field: value})
    assert message in refusal(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"generator"', "[" * 300_000, '{"info":' * 300_000, '{"info": 1' + "0" * 300_000]
)
def test_metadata_of_another_form_is_refused(path, text):
    rewrite(path, change_metadata=lambda m: text)
    assert "metadata" in refusal(path)


def test_keys_of_a_later_version_are_passed_over(path):
    rewrite(path, change_metadata=lambda m: m | {"colour": {"of": ["a", "later", "version"]}})
    assert read_generator(path).config == CFG


def test_a_header_that_no_checkpoint_has_is_refused_before_it_is_read(path):
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", 90 * 2**20))
        file.truncate(100 * 2**20)
    assert "header is too long" in refusal(path)


def test_devices_and_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero")):
        assert "not a regular file" in refusal(path)


def test_facts_that_are_not_json_are_not_written(arrays, path, whole):
    for info in ({"fid": float("nan")}, {"when": object()}):
        with pytest.raises(CheckpointError, match="its info is not JSON"):
            write_generator(path, CFG, arrays, info=info)
    assert path.read_bytes() == whole


def test_facts_that_could_not_be_read_again_are_not_written(arrays, path, whole):
    nested: dict = {}
    for _ in range(200):
        nested = {"a": nested}
    for info in (nested, {"digits": 10**400}, {"long": "x" * 2**23}):
        with pytest.raises(CheckpointError, match="is not written: its info"):
            write_generator(path, CFG, arrays, info=info)
    assert path.read_bytes() == whole


def test_bytes_in_facts_that_are_not_utf_8_become_codes(arrays, path):
    write_generator(path, CFG, arrays, info={"credit": os.fsdecode(b"Andr\xe9")})
    assert read_generator(path).info["credit"] == r"Andr\xe9"


def test_safetensors_of_other_projects_are_refused(arrays, tmp_path):
    save_file(arrays, tmp_path / "foreign.safetensors", {"format": "pt"})
    assert "carries no stylert configuration" in refusal(tmp_path / "foreign.safetensors")
    save_file(arrays, tmp_path / "bare.safetensors")
    assert "carries no stylert configuration" in refusal(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("generator", None, "generator is missing"),
        ("discriminator", {"resolution": "8"}, "$.resolution"),
        ("colour", 1, "'colour'"),
        ("batch", "4", "$.batch"),
        ("batch", 4.5, "$.batch"),
        ("pl_weight", {"a": 1}, "$.pl_weight"),
        ("pl_decay", "x", "$.pl_decay"),
        ("mixing_prob", None, "$.mixing_prob"),
        ("r1_gamma", True, "$.r1_gamma"),
        ("seed", -1, "seed must lie"),
    ],
)
def test_wrong_configurations_of_a_run_are_refused(tmp_path, field, value, message):
    train = TrainConfig(CFG, DiscriminatorConfig(8, channel_base=32, channel_max=3), batch=4, kimg=1)
    metadata = {"kind": "training", "version": 1, "generator": CFG.to_dict(), "train": train.to_dict() | {field: value}}
    save_file({"pl_mean": np.zeros(1)}, tmp_path / "s.safetensors", {"stylert": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="no valid training configuration") as e:
        snapshot_file.read_config(tmp_path / "s.safetensors")
    assert message in str(e.value)


def test_resuming_from_a_generator_is_refused(path):
    with pytest.raises(CheckpointError, match="generator for serving"):
        snapshot_file.read_config(path)


def test_values_beyond_float16_are_not_written_in_half_precision(arrays, path, whole):
    arrays["mapping.fc0.weight"] = arrays["mapping.fc0.weight"] * 0 + 1e6
    with pytest.raises(CheckpointError, match=r"mapping\.fc0\.weight"):
        write_generator(path, CFG, arrays, half=True)
    assert path.read_bytes() == whole
