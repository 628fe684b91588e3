"""The functions that docs/latents.md and docs/embedding.md show refuse wrong arguments in one line."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import InputError, OutputError
from stylert.core.images.grids import save_grid
from stylert.core.seeds import format_seeds, parse_seeds, z_from_seeds
from stylert.runtime import Bundle
from stylert.runtime.cuda.arrays import device_view, host_view
from stylert.runtime.input_checks import finite_number
from stylert.runtime.media.interpolation import keyframe_path
from stylert.runtime.media.pictures import encoded_image, save_image
from stylert.runtime.media.recipes import read_recipe
from stylert.runtime.media.video import write_video
from stylert.runtime.serving.settings import ServerSettings
from stylert.runtime.style_levels import mix_styles, parse_levels

IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
KEYS = np.zeros((3, 6, 8), np.float32)

WRONG: dict[str, Callable[[], object]] = {
    "recipe of nothing": lambda: read_recipe(None),  # type: ignore[arg-type]
    "recipe of a number": lambda: read_recipe(3),  # type: ignore[arg-type]
    "bundle of nothing": lambda: Bundle.load(None),  # type: ignore[arg-type]
    "seeds as a number": lambda: parse_seeds(3),  # type: ignore[arg-type]
    "seeds with a text as limit": lambda: parse_seeds("0-3", "x"),  # type: ignore[arg-type]
    "seeds with no limit": lambda: parse_seeds("0-3", None),  # type: ignore[arg-type]
    "seeds with a limit of 0": lambda: parse_seeds("0-3", 0),
    "seeds as nothing": lambda: parse_seeds(None),  # type: ignore[arg-type]
    "z of -1": lambda: z_from_seeds([1], -1),
    "z of 0": lambda: z_from_seeds([1], 0),
    "z of 1.5": lambda: z_from_seeds([1], 1.5),  # type: ignore[arg-type]
    "z of 10**12": lambda: z_from_seeds([1], 10**12),
    "grid of nothing": lambda: save_grid(None, "x.png"),  # type: ignore[arg-type]
    "grid of no images": lambda: save_grid(IMAGES[:0], "x.png"),
    "grid of floats": lambda: save_grid(IMAGES.astype(np.float32), "x.png"),
    "grid of one image": lambda: save_grid(IMAGES[0], "x.png"),
    "grid of six channels": lambda: save_grid(np.concatenate([IMAGES, IMAGES], -1), "x.png"),
    "grid of no columns": lambda: save_grid(IMAGES, "x.png", 0),
    "grid of half a column": lambda: save_grid(IMAGES, "x.png", 1.5),  # type: ignore[arg-type]
    "grid of 10**8 columns": lambda: save_grid(IMAGES, "x.png", 10**8),
    "grid of 10**400 columns": lambda: save_grid(IMAGES, "x.png", 10**400),
    "grid in an exe": lambda: save_grid(IMAGES, "x.exe"),
    "grid nowhere": lambda: save_grid(IMAGES, None),  # type: ignore[arg-type]
    "picture nowhere": lambda: save_image(IMAGES[0], None),  # type: ignore[arg-type]
    "picture of nothing": lambda: save_image(None, "x.png"),  # type: ignore[arg-type]
    "picture of floats": lambda: save_image(IMAGES[0].astype(np.float32), "x.png"),
    "picture in an exe": lambda: save_image(IMAGES[0], "x.exe"),
    "picture of no pixels": lambda: save_image(IMAGES[0, :0], "x.webp"),
    "bytes of no picture": lambda: encoded_image(None, ".png"),  # type: ignore[arg-type]
    "bytes of no format": lambda: encoded_image(IMAGES[0], None),  # type: ignore[arg-type]
    "bytes of no quality": lambda: encoded_image(IMAGES[0], ".jpg", quality=0.5),  # type: ignore[arg-type]
    "bytes of a batch": lambda: encoded_image(IMAGES, ".png"),
    "picture of too many pixels": lambda: save_image(np.zeros((1, 70_000, 3), np.uint8), "x.gif"),
    "picture with a number as its comment": lambda: save_image(IMAGES[0], "x.png", 5),  # type: ignore[arg-type]
    "video of nothing": lambda: write_video("x.gif", None, 10, ""),  # type: ignore[arg-type]
    "video of no images": lambda: write_video("x.webp", [], 10, ""),
    "video of empty batches": lambda: write_video("x.gif", [IMAGES[:0, :0]], 10, ""),
    "video of two sizes": lambda: write_video("x.gif", [IMAGES, IMAGES[:, :2]], 10, ""),
    "video of grey and color": lambda: write_video("x.webp", [IMAGES, IMAGES[..., :1]], 10, ""),
    "video of floats": lambda: write_video("x.gif", [IMAGES / 2], 10, ""),
    "video of too wide images": lambda: write_video("x.webp", [np.zeros((1, 1, 70_000, 3), np.uint8)], 10, ""),
    "video of half a frame a second": lambda: write_video("x.gif", [IMAGES], 0.5, ""),  # type: ignore[arg-type]
    "video with a number as its comment": lambda: write_video("x.gif", [IMAGES], 10, 5),  # type: ignore[arg-type]
    "video nowhere": lambda: write_video(None, [IMAGES], 10, ""),  # type: ignore[arg-type]
    "seeds without end": lambda: z_from_seeds(itertools.count(), 4),
    "seeds of a billion": lambda: z_from_seeds(range(10**9), 4),
    "seeds as bytes": lambda: z_from_seeds(b"ab", 4),
    "text of seeds that are text": lambda: format_seeds(["a"]),  # type: ignore[list-item]
    "levels of 2**31 latents": lambda: parse_levels("coarse", 2**31),
    "styles mixed at a name": lambda: mix_styles(KEYS[0], KEYS, ["coarse"]),  # type: ignore[list-item]
    "styles mixed at a latent that is not there": lambda: mix_styles(KEYS[0], KEYS, [6]),
    "a path in batches of 10**9": lambda: keyframe_path(KEYS, 10**9, batch=10**9),
    "a server of no address": lambda: ServerSettings(host=None),  # type: ignore[arg-type]
    "a server of half a connection": lambda: ServerSettings(max_connections=0.5),  # type: ignore[arg-type]
    "a server of text": lambda: ServerSettings(max_batch="8"),  # type: ignore[arg-type]
    "a server at port True": lambda: ServerSettings(port=True),
    "a server that waits for nothing": lambda: ServerSettings(idle_seconds=None),  # type: ignore[arg-type]
    "a server that waits NaN seconds": lambda: ServerSettings(drain_seconds=float("nan")),
    "a server that waits a decimal": lambda: ServerSettings(body_seconds=Decimal("NaN")),  # type: ignore[arg-type]
    "a server with a number as its key": lambda: ServerSettings(api_key=12345678),  # type: ignore[arg-type]
    "levels as a number": lambda: parse_levels(3, 6),  # type: ignore[arg-type]
    "a path of nothing": lambda: keyframe_path(None, 4),  # type: ignore[arg-type]
    "a path of 2.5 frames": lambda: keyframe_path(KEYS, 2.5),  # type: ignore[arg-type]
    "a path in batches of 0": lambda: keyframe_path(KEYS, 4, batch=0),
    "a path of no known curve": lambda: keyframe_path(KEYS, 4, curve="spline"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_one_line_and_leaves_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, OutputError)) as e:
        WRONG[name]()
    assert str(e.value).isprintable()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.float16(1), np.float16(65504), np.int8(-3), np.float64(1e38), 10**38])
def test_a_number_of_any_type_is_taken_without_a_warning(value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finite_number(value, "psi") == float(value)


@pytest.mark.parametrize("value", [np.float16("inf"), np.float16("nan"), np.float64(1e39), 10**400, True, "1", None])
def test_what_is_no_finite_number_is_refused_without_a_warning(value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="psi must be a finite number"):
            finite_number(value, "psi")


def described(**attributes: object) -> object:
    """An object with these attributes, as another library's array has them."""
    return type("Array", (), attributes)()


@pytest.mark.parametrize("device", [None, (), (1,), ("x", 0), (2, "y"), (10**30, 0), 7])
def test_a_device_that_is_none_is_refused_in_one_line(device: object) -> None:
    array = described(__dlpack__=lambda self, **_: object(), __dlpack_device__=lambda self: device)
    for view in (host_view, device_view):
        try:
            assert view(array) is None  # it is on another device
        except InputError as e:
            assert str(e).startswith("this array cannot be taken: ")
            assert str(e).isprintable()


@pytest.mark.parametrize(
    "interface",
    [
        3,
        {},
        {"shape": (1,), "typestr": "<f4"},
        {"shape": (1,), "typestr": "nonsense", "data": (0, False)},
        {"shape": ("x",), "typestr": "<f4", "data": (0, False)},
        {"shape": None, "typestr": "<f4", "data": (0, False)},
        {"shape": (1,), "typestr": "<f4", "data": 5},
        {"shape": (1,), "typestr": "<f4", "data": ("address", False)},
        {"shape": (1,), "typestr": "<f4", "data": (0, False), "strides": 3},
    ],
)
def test_a_description_of_memory_that_is_none_is_refused_in_one_line(interface: object) -> None:
    with pytest.raises(InputError, match="this array cannot be taken: ") as e:
        device_view(described(__cuda_array_interface__=interface))
    assert str(e.value).isprintable()
