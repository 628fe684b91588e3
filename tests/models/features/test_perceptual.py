"""LPIPS equals its formula in float64, from files made here. The stand-in grows with the difference of the images."""

import numpy as np
import pytest
import scipy.signal
import torch
from safetensors.torch import save_file

from stylert.core.errors import InputError
from stylert.models.features import perceptual
from stylert.models.features.extractors import EffNetLite0
from stylert.models.features.perceptual import EffNetLite0Distance, Lpips

#: VGG16 with few channels: five stages, thirteen convolutions.
THIN = (2, 3, 0, 3, 2, 0, 2, 2, 3, 0, 3, 2, 2, 0, 2, 3, 2)


@pytest.fixture
def tensors(rng, monkeypatch):
    """Random weights of LPIPS on the thin network, by name."""
    monkeypatch.setattr(perceptual, "VGG16", THIN)
    weights, index, width = {}, 0, 3
    for channels in THIN:
        if channels:
            weights[f"features.{index}.weight"] = torch.from_numpy(rng.normal(size=(channels, width, 3, 3))).float()
            weights[f"features.{index}.bias"] = torch.from_numpy(rng.normal(size=channels)).float()
            index, width = index + 2, channels
        else:
            index += 1
    widths = [c for i, c in enumerate(THIN) if c and is_last_of_stage(i)]
    for i, channels in enumerate(widths):
        weights[f"lin{i}.model.1.weight"] = torch.from_numpy(rng.uniform(size=(1, channels, 1, 1))).float()
    return weights


def is_last_of_stage(i):
    return i + 1 == len(THIN) or THIN[i + 1] == 0


@pytest.fixture
def files(tensors, tmp_path):
    """VGG16 in a PyTorch file, the linear layers in safetensors."""
    vgg, linear = tmp_path / "vgg16.pth", tmp_path / "lpips.safetensors"
    torch.save({k: v for k, v in tensors.items() if k.startswith("features")}, vgg)
    save_file({k: v for k, v in tensors.items() if k.startswith("lin")}, str(linear))
    return vgg, linear


def expected(tensors, a, b):
    """LPIPS (equation 1) of one pair of images `[3, H, W]`, with SciPy's correlation."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    pair = [(x - shift[:, None, None]) / scale[:, None, None] for x in (a, b)]
    total, index, stage = 0.0, 0, 0
    for i, channels in enumerate(THIN):
        if channels == 0:
            pair = [x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2] for x in pair]
            pair = [x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4)) for x in pair]
            index += 1
            continue
        w, bias = (tensors[f"features.{index}.{k}"].double().numpy() for k in ("weight", "bias"))
        pair = [
            np.maximum(
                [
                    sum(scipy.signal.correlate2d(c, k, "same") for c, k in zip(x, o, strict=True)) + s
                    for o, s in zip(w, bias, strict=True)
                ],
                0,
            )
            for x in pair
        ]
        index += 2
        if is_last_of_stage(i):
            units = [x / (np.sqrt((x**2).sum(0)) + 1e-10) for x in pair]
            linear = tensors[f"lin{stage}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
            total += (linear * (units[0] - units[1]) ** 2).sum(0).mean()
            stage += 1
    return total


def test_lpips_equals_its_formula(tensors, files, rng):
    a, b = rng.uniform(-1, 1, (2, 3, 3, 32, 32))
    distances = Lpips(files)(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    # Rounding may turn a unit vector around where the features nearly vanish. This changes few of the 1,400 positions.
    np.testing.assert_allclose(distances, [expected(tensors, *pair) for pair in zip(a, b, strict=True)], rtol=1e-2)


def test_lpips_is_zero_for_equal_images_and_symmetric(files, rng):
    a, b = torch.from_numpy(rng.uniform(-1, 1, (2, 4, 3, 32, 32))).float()
    distance = Lpips(files)
    assert torch.equal(distance(a, a), torch.zeros(4))
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert (distance(a, b) > 0).all()


def test_missing_tensors_and_files_are_named(files, tmp_path):
    with pytest.raises(InputError, match=r"lacks the tensor lin0\.model\.1\.weight"):
        Lpips(files[:1])
    with pytest.raises(InputError, match=r"nothing\.pth does not exist"):
        Lpips([*files, tmp_path / "nothing.pth"])


def test_the_stand_in_grows_with_the_difference(rng):
    y, x = np.mgrid[:32, :32] / 32
    image = torch.from_numpy(np.sin([6 * x + 2 * y, 9 * y, 5 * x])).float()[None]
    noise = torch.from_numpy(rng.normal(size=(1, 3, 32, 32))).float()
    distance = EffNetLite0Distance(EffNetLite0())
    distances = [float(distance(image, image + amount * noise)) for amount in (0, 0.01, 0.1, 0.5)]
    assert distances[0] == 0
    assert distances == sorted(distances)
