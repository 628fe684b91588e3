"""Inception through torch-fidelity: it reads local weights of tensors alone, and downloads nothing."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from stylert.core.errors import BackendError, InputError
from stylert.models.features.extractors import Inception

MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class SmallInception(nn.Module):
    """A small stand-in for torch-fidelity's class: its 2048 features are all the mean of the pixels."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048"]
        self.fc = nn.Linear(2048, 1008)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        self.requires_grad_(False)

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.float().mean((1, 2, 3))[:, None] * torch.ones(2048),)


@pytest.fixture
def fidelity(monkeypatch):
    """Replace torch-fidelity, so that the tests need neither the package nor its weights."""
    module = types.ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = SmallInception
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "inception.pth"
    torch.save({f"fc.{name}": tensor for name, tensor in nn.Linear(2048, 1008).state_dict().items()}, path)
    return path


def test_features_come_from_the_network_and_logits_leave_out_the_bias(fidelity, weights, rng):
    extractor = Inception(weights)
    images = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    features = extractor(images)
    np.testing.assert_allclose(features, np.repeat(images.reshape(3, -1).mean(1)[:, None], 2048, 1), rtol=1e-5)
    weight = torch.load(weights, weights_only=True)["fc.weight"].double().numpy()
    np.testing.assert_allclose(extractor.logits(features), features @ weight.T)
    np.testing.assert_allclose(extractor(images[..., :1])[:, 0], images[..., 0].reshape(3, -1).mean(1), rtol=1e-5)


def test_other_weights_give_another_identity(fidelity, weights, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({k: v + 1 for k, v in torch.load(weights, weights_only=True).items()}, other)
    assert Inception(weights).identity == Inception(weights).identity != Inception(other).identity


def test_weights_of_another_network_are_refused(fidelity, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="no weights of the FID Inception network") as e:
        Inception(path)
    assert "\n" not in str(e.value)


def test_weights_that_would_run_code_are_refused_and_do_not_run(fidelity, runs_code, tmp_path, capsys):
    torch.save({"fc.weight": runs_code}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="plain tensors"):
        Inception(tmp_path / "w.pth")
    assert "this ran" not in capsys.readouterr().out


def test_a_missing_file_and_a_missing_package_are_named(fidelity, weights, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="local file"):
        Inception(tmp_path / "nothing.pth")
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(BackendError, match="fidelity"):
        Inception(weights)
