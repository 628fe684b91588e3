"""The kernel that computes a layer, its torgb and the image equals the float64 reference, in the interpreter."""

from dataclasses import replace

import pytest
import torch

from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import upsample2d
from stylert.plugins.shapes import Epilogue
from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into
from stylert.plugins.triton.tiles import Tile
from stylert.plugins.triton.to_rgb import Rgb


def draw(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def layer(rng, dtype, channels=3):
    """Operands of a layer and of its torgb. Height and width are even, because a skip image has half of them."""
    n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [5, 24, 24, 5, 5]))
    h, w = 2 * h, 2 * w
    weight = (draw(rng, 1, o, 3, 3, i) / (9 * i) ** 0.5).to(dtype)
    operands = [draw(rng, n, h, w, i, dtype=dtype), weight, draw(rng, n, i, dtype=dtype), draw(rng, n, o).abs()]
    operands += [draw(rng, n, h, w), draw(rng, o)]
    image = torch.full((n, h, w, channels), float("nan"))
    bias, skip, f = draw(rng, channels), draw(rng, n, h // 2, w // 2, channels), draw(rng, 4, 4) / 4
    if rng.integers(3) == 0:
        skip = f = None
    rgb = Rgb(
        image,
        draw(rng, channels, o) / o**0.5,
        draw(rng, n, o),
        bias if rng.integers(3) else None,
        skip,
        f,
        float(rng.choice([0, 1])),
    )
    return operands, rgb


def reference(operands, rgb, sizes=False):
    """The activations, the image, and the image without torgb's clamp.

    With `sizes`, the layer is linear: for operands without signs the results are the sizes of the terms.
    """
    x, weight, style, demod, noise, bias = (t.double() for t in operands)
    attributes = {"activation": "linear"} if sizes else {"activation": "lrelu", "clamp": 4.0}
    y = modulated_conv2d(x.permute(0, 3, 1, 2), weight[0].permute(0, 3, 1, 2), style, demod, noise[:, None], bias, **attributes)
    bias = None if rgb.bias is None else rgb.bias.double()
    images = []
    for clamp in (rgb.clamp or None, None):
        image = modulated_conv2d(y, rgb.weight.double()[:, :, None, None], rgb.style.double(), bias=bias, clamp=clamp)
        if rgb.skip is not None:
            image = image + upsample2d(rgb.skip.double().permute(0, 3, 1, 2), rgb.f.double())
        images.append(image)
    return y, *images


@pytest.mark.parametrize("keep", [True, False], ids=["with y", "image alone"])
def test_the_image_is_that_of_the_layers_one_by_one(rng, dtype, keep, poisoned, assert_parity):
    for _ in range(2):
        operands, rgb = layer(rng, dtype, int(rng.integers(1, 5)))
        x, o = operands[0], operands[1].shape[1]
        y = poisoned(*x.shape[:3], o, dtype=dtype) if keep else None
        tile = [None, Tile(16, 32, 16), Tile(64, 32, 32)][int(rng.integers(3))]
        precision = "ieee" if dtype == torch.bfloat16 else "tf32x3"
        modulated_conv2d_into(y, *operands, epilogue=Epilogue.of("lrelu", clamp=4.0), tile=tile, rgb=rgb, precision=precision)
        exact, image, unclamped = reference(operands, rgb)
        sized = {
            name: t.abs() for name, t in vars(rgb).items() if name in ("weight", "style", "bias", "skip", "f") and t is not None
        }
        y_terms, _, terms = reference([t.abs() for t in operands], replace(rgb, **sized), sizes=True)
        assert_parity(rgb.image.permute(0, 3, 1, 2), image, dtype, (x.shape, o, tile), unclamped=unclamped, terms=terms)
        if keep:
            assert_parity(y.permute(0, 3, 1, 2), exact, dtype, (x.shape, o, tile), terms=y_terms)


def test_an_image_in_bytes_is_rounded_as_the_official_tools_do(rng):
    operands, rgb = layer(rng, torch.float32)
    image = torch.zeros_like(rgb.image, dtype=torch.uint8)
    modulated_conv2d_into(None, *operands, epilogue=Epilogue.of("lrelu", clamp=4.0), rgb=replace(rgb, image=image))
    exact = (reference(operands, rgb)[1].permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255)
    # The kernel truncates a float32. A value next to a whole number may fall to either side of it.
    assert (image.double() <= exact + 1e-2).all()
    assert (image.double() >= exact - 1 - 1e-2).all()


def test_an_image_that_the_kernel_cannot_make_is_refused(rng):
    operands, rgb = layer(rng, torch.float32)
    n, h, w, i = operands[0].shape
    o = operands[1].shape[1]
    rgb = replace(rgb, skip=torch.zeros(n, h // 2, w // 2, 3), f=torch.ones(4, 4))
    good = {"y": torch.zeros(n, h, w, o), "rgb": rgb, "epilogue": Epilogue()}
    modulated_conv2d_into(good["y"], *operands, epilogue=Epilogue(), rgb=rgb)
    wrong = [
        {"y": None, "rgb": None}, {"rgb": replace(rgb, clamp=-1.0)}, {"rgb": replace(rgb, clamp=float("nan"))},
        {"rgb": replace(rgb, image=torch.zeros(n, h, w, 5))}, {"rgb": replace(rgb, image=rgb.image.double())},
        {"rgb": replace(rgb, image=torch.zeros(n, 3, h, w).permute(0, 2, 3, 1))} if h * w > 1 else {"y": None, "rgb": None},
        {"rgb": replace(rgb, image=torch.zeros(n, h + 1, w, 3))}, {"rgb": replace(rgb, f=None)}, {"rgb": replace(rgb, skip=None)},
        {"rgb": replace(rgb, skip=rgb.skip.half())}, {"rgb": replace(rgb, skip=torch.zeros(n, h, w, 3))},
        {"rgb": replace(rgb, weight=torch.zeros(3, o + 1))}, {"rgb": replace(rgb, style=torch.zeros(n + 1, o))},
        {"rgb": replace(rgb, bias=torch.zeros(4))}, {"rgb": replace(rgb, f=torch.ones(3, 3))},
        {"tile": Tile(16, 32, 16, splits=2)},
    ]  # fmt: skip
    if o > 16:
        wrong.append({"tile": Tile(16, 16, 16)})
    for change in wrong:
        with pytest.raises(ValueError, match=r"^(modulated_conv2d|torgb): "):
            modulated_conv2d_into(
                **dict(zip(("x", "weight", "style", "demod", "noise", "bias"), operands, strict=True)), **{**good, **change}
            )
    up = operands[:]
    up[1] = torch.zeros(4, o, 3, 3, i)
    with pytest.raises(ValueError, match="2x up"):
        modulated_conv2d_into(None, *up, epilogue=Epilogue(), rgb=rgb)
