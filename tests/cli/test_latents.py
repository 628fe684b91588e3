"""mix, sweep, interpolate and again: their pictures, the same pictures from recipes, and mistakes that leave no file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.cli.latents import drawing as latents
from stylert.cli.picture_options import PictureOptions
from stylert.cli.pipeline.generate import generate_images
from stylert.core.errors import BundleError, InputError, OutputError, StylertError
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.media import rendering
from stylert.runtime.media.recipes import MAX_BATCH, Recipe, bundle_hash, read_recipe
from stylert.runtime.media.rendering import check_call

SHARED = {f.name for f in dataclasses.fields(PictureOptions)}


def arguments(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a command: `given` with `changes`. Shared options go into one `PictureOptions`, with 3 images per call."""
    shared = PictureOptions(**{"batch": 3, **{k: v for k, v in changes.items() if k in SHARED}})
    own = {k: v for k, v in changes.items() if k not in SHARED}
    return {"options": shared, "report": lambda *_: None, **given, **own}


def mix(bundle: Path, out: Path, **changes: Any) -> None:
    given = {"rows": [0, 1], "columns": [5, 6, 7], "levels": "coarse", "psi": 0.8}
    latents.mix(bundle, out=out, **arguments(given, changes))


def sweep(bundle: Path, out: Path, **changes: Any) -> None:
    latents.sweep(bundle, out=out, **arguments({"seeds": [3, 4], "psi": "-1,0,0.5"}, changes))


def interpolate(bundle: Path, out: Path, **changes: Any) -> None:
    given = {"seeds": [0, 9, 4], "seconds": 0.7, "fps": 10, "loop": False, "space": "w", "psi": 0.8}
    latents.interpolate(bundle, out=out, **arguments(given, changes))


def generate(bundle: Path, out: Path, grid: bool, **changes: Any) -> list[Path]:
    return generate_images(bundle, out=out, grid=grid, **arguments({"seeds": [2, 3, 9, 11], "psi": 0.7}, changes))


def again(file: Path, bundle: Path | None, out: Path) -> None:
    latents.again(file, bundle, out, None, lambda *_: None)


def tiles(path: Path, side: int = 16) -> np.ndarray:
    """The pictures of a grid, `[rows, columns, side, side, 3]`."""
    pixels = np.asarray(Image.open(path))
    h, w = pixels.shape[0] // side, pixels.shape[1] // side
    return pixels.reshape(h, side, w, side, 3).swapaxes(1, 2)


def steps_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_a_mix_has_its_sources_in_the_first_row_and_column_and_mixtures_elsewhere(bundle: Bundle, tmp_path: Path) -> None:
    for levels in ("0-5", "coarse", "middle"):
        mix(bundle.path, tmp_path / "mix.png", levels=levels)
        grid = tiles(tmp_path / "mix.png")
        assert grid.shape[:2] == (3, 4)
        assert (grid[0, 0] == 255).all()
        with Generator.load(bundle) as g:
            assert steps_apart(grid[0, 1:], g([5, 6, 7], psi=0.8)) <= 1
            assert steps_apart(grid[1:, 0], g([0, 1], psi=0.8)) <= 1
        if levels == "0-5":
            assert steps_apart(grid[1:, 1:], np.broadcast_to(grid[0, 1:], grid[1:, 1:].shape)) <= 1
        else:
            assert steps_apart(grid[1, 1], grid[0, 1]) > 0
            assert steps_apart(grid[1, 1], grid[1, 0]) > 0


def test_a_sweep_has_a_row_per_seed_and_a_column_per_psi(bundle: Bundle, tmp_path: Path) -> None:
    sweep(bundle.path, tmp_path / "sweep.png")
    grid = tiles(tmp_path / "sweep.png")
    assert grid.shape[:2] == (2, 3)
    with Generator.load(bundle) as g:
        for column, psi in enumerate((-1, 0, 0.5)):
            assert steps_apart(grid[:, column], g([3, 4], psi=psi)) <= 1
    assert steps_apart(grid[0, 1], grid[1, 1]) <= 1  # the average image


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".gif"])
@pytest.mark.parametrize("space", ["w", "z"])
def test_again_repeats_a_video_bit_for_bit_and_converts_it(bundle: Bundle, tmp_path: Path, suffix: str, space: str) -> None:
    video = tmp_path / f"v{suffix}"
    interpolate(bundle.path, video, loop=True, space=space, precision="int8")
    again(video, bundle.path, tmp_path / f"again{suffix}")
    if suffix != ".mp4":  # its encoder does not repeat its bytes exactly
        assert (tmp_path / f"again{suffix}").read_bytes() == video.read_bytes()
    again(video, bundle.path, tmp_path / "other.webp")
    image = Image.open(tmp_path / "other.webp")
    assert (image.n_frames, image.size) == (7, (16, 16))
    assert read_recipe(tmp_path / "other.webp") == read_recipe(video)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".jpg"])
def test_again_repeats_a_picture_bit_for_bit(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    for command in (mix, sweep):
        command(bundle.path, tmp_path / f"a{suffix}")
        again(tmp_path / f"a{suffix}", bundle.path, tmp_path / f"b{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("grid", [False, True])
def test_again_repeats_the_files_of_generate_bit_for_bit(bundle: Bundle, tmp_path: Path, backend: str, grid: bool) -> None:
    files = generate(bundle.path, tmp_path / "images", grid, backend=backend, precision="int8")
    for file in files:
        again(file, bundle.path, tmp_path / "again.png")
        assert (tmp_path / "again.png").read_bytes() == file.read_bytes()
    assert len(files) == (1 if grid else 4)


def test_a_path_without_loop_shows_its_seeds_in_order(bundle: Bundle, tmp_path: Path) -> None:
    for space in ("w", "z"):
        interpolate(bundle.path, tmp_path / "v.gif", space=space)  # 256 colours for 256 pixels lose little
        image = Image.open(tmp_path / "v.gif")
        with Generator.load(bundle) as g:
            sources = g([0, 9, 4], psi=0.8).astype(float)
        for frame, source in ((0, 0), (3, 1), (6, 2)):
            image.seek(frame)
            errors = np.abs(np.asarray(image.convert("RGB")) - sources).mean((1, 2, 3))
            assert errors.argmin() == source
            assert errors[source] < 4


def test_labels_and_float_bundles_work(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    b = export_bundle(make_checkpoint(c_dim=3), tmp_path / "b", ["fp32"], output="float").path
    for label in (0, 2):
        mix(b, tmp_path / f"{label}.png", label=label)
        interpolate(b, tmp_path / f"{label}.gif", label=label, space="z")
        again(tmp_path / f"{label}.png", b, tmp_path / "again.png")
        assert (tmp_path / "again.png").read_bytes() == (tmp_path / f"{label}.png").read_bytes()
    assert steps_apart(tiles(tmp_path / "0.png"), tiles(tmp_path / "2.png")) > 0
    mix(b, tmp_path / "vector.png", label_vector="0,0,1")
    np.testing.assert_array_equal(tiles(tmp_path / "vector.png"), tiles(tmp_path / "2.png"))
    with pytest.raises(InputError, match="labels"):
        mix(b, tmp_path / "x.png")


def test_a_label_vector_is_drawn_recorded_and_repeated(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    b = export_bundle(make_checkpoint(c_dim=3), tmp_path / "b", ["fp32"]).path
    vector = (0.25, -1e-3, 0.7)
    (grid,) = generate(b, tmp_path, True, label_vector=" 0.25, -1e-3,0.7")
    files = generate(b, tmp_path, False, label_vector="0.25,-1e-3,0.7")
    with Generator.load(b) as g:
        expected = g([2, 3, 9, 11], psi=0.7, labels=np.array([vector] * 4))
    assert steps_apart(tiles(grid).reshape(expected.shape), expected) <= 1
    for file in (grid, files[2]):
        assert read_recipe(file).label_vector == vector
        again(file, b, tmp_path / "again.png")
        assert (tmp_path / "again.png").read_bytes() == file.read_bytes()
    for text, message in (("1,0", r"\[1, 3\]"), ("a,0,0", "numbers such as"), ("nan,0,0", "nan"), ("1e39,0,0", "label_vector")):
        with pytest.raises(InputError, match=message):
            generate(b, tmp_path / "refused", False, label_vector=text)
    with pytest.raises(InputError, match="not both"):
        generate(b, tmp_path / "refused", False, label=1, label_vector="0,0,1")
    assert not (tmp_path / "refused").exists()


def test_again_refuses_another_bundle_and_names_the_option_for_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix(bundle.path, tmp_path / "mix.png")
    other = Path(shutil.copytree(bundle.path, tmp_path / "other"))
    manifest = json.loads((other / "bundle.json").read_text())
    manifest["provenance"]["info"] = {"changed": True}
    (other / "bundle.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="hash"):
        again(tmp_path / "mix.png", other, tmp_path / "out.png")
    with pytest.raises(BundleError, match="--bundle"):
        again(tmp_path / "mix.png", None, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
    shutil.copytree(bundle.path, tmp_path / "bundle")
    again(tmp_path / "mix.png", None, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "mix.png").read_bytes()
    assert read_recipe(tmp_path / "out.png").bundle == bundle_hash(bundle)


def test_every_mistake_is_one_line_and_leaves_no_file(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    for command, out, changes, kind in [
        (mix, "m.png", {"levels": "rough"}, InputError),
        (mix, "m.png", {"levels": "0-9"}, InputError),
        (mix, "m.png", {"levels": "fine"}, InputError),
        (mix, "m.png", {"rows": []}, InputError),
        (mix, "m.png", {"psi": float("nan")}, InputError),
        (mix, "m.png", {"cutoff": 99}, InputError),
        (mix, "m.png", {"label": 1}, InputError),
        (mix, "m.png", {"rows": range(2000), "columns": range(2000)}, InputError),
        (mix, "m.png", {"rows": range(0, 50_000, 2)}, InputError),
        (mix, "m.png", {"precision": "fp16"}, InputError),
        (mix, "m.png", {"backend": "abacus"}, InputError),
        (mix, "m.bmp", {}, InputError),
        (mix, "m.xyz", {}, InputError),
        (mix, "m.mp4", {}, InputError),
        (mix, "folder.png", {}, OutputError),
        (mix, "file/m.png", {}, OutputError),
        (sweep, "s.png", {"psi": "a"}, InputError),
        (sweep, "s.png", {"psi": ""}, InputError),
        (sweep, "s.png", {"psi": "1,inf"}, InputError),
        (sweep, "s", {}, InputError),
        (interpolate, "v.mp4", {"fps": 0}, InputError),
        (interpolate, "v.mp4", {"fps": 1000}, InputError),
        (interpolate, "v.gif", {"fps": 60}, InputError),
        (interpolate, "v.mp4", {"seconds": 0}, InputError),
        (interpolate, "v.mp4", {"seconds": -1}, InputError),
        (interpolate, "v.mp4", {"seconds": float("nan")}, InputError),
        (interpolate, "v.mp4", {"seconds": float("inf")}, InputError),
        (interpolate, "v.mp4", {"seconds": 1e12}, InputError),
        (interpolate, "v.mp4", {"seconds": 1e308}, InputError),
        (interpolate, "v.mp4", {"seeds": [1]}, InputError),
        (interpolate, "v.mp4", {"seeds": range(9999)}, InputError),
        (interpolate, "v.mp4", {"space": "x"}, InputError),
        (interpolate, "v.mp4", {"batch": 0}, InputError),
        (interpolate, "v.mp4", {"batch": 257}, InputError),
        (interpolate, "v.avi", {}, InputError),
        (interpolate, "file/v.mp4", {}, OutputError),
        (again, "a.png", {"file": tmp_path / "none.png"}, InputError),
        (again, "a.png", {"file": tmp_path / "file"}, InputError),
    ]:
        with pytest.raises(kind) as e:
            command(bundle=bundle.path, out=tmp_path / out, **changes)  # type: ignore[operator]
        assert "\n" not in str(e.value)
        assert sorted(tmp_path.iterdir()) == before, (command, changes)


def test_an_interrupted_command_keeps_the_old_file(bundle: Bundle, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for command, name in ((mix, "m.png"), (interpolate, "v.mp4"), (interpolate, "v.gif"), (interpolate, "v.webp")):
        command(bundle.path, tmp_path / name)
        old = (tmp_path / name).read_bytes()
        with pytest.raises(KeyboardInterrupt):
            command(bundle.path, tmp_path / name, psi=0.1, report=stop)
        assert (tmp_path / name).read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("resolution", "images"), [(64, 256), (512, 128), (1024, 32), (4096, 2)])
def test_one_call_has_at_most_so_many_images(resolution: int, images: int, bundle: Bundle) -> None:
    """A recipe of few bytes must not ask for the activations of thousands of images."""
    large = dataclasses.replace(bundle, model=bundle.model | {"resolution": resolution})
    check_call(large, images)
    if images < MAX_BATCH:
        with pytest.raises(InputError, match=f"{images + 1} images of {resolution} px in one call"):
            check_call(large, images + 1)


@pytest.mark.parametrize("recipe", [{"command": "generate", "seeds": (0,), "together": (0, 1, 2)}, {"batch": 3}])
def test_a_recipe_with_too_many_images_in_a_call_is_refused_before_any(
    recipe: dict[str, Any], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_CALL_PIXELS", 2 * bundle.resolution**2)
    facts = {"command": "grid", "seeds": (0, 1, 2), "batch": 8, "backend": "onnxruntime", "precision": "fp32", "psi": (1.0,)}
    with Generator.load(bundle) as generator:
        monkeypatch.setattr(generator, "synthesize", lambda *_: pytest.fail("an image was computed"))
        with pytest.raises(InputError, match="3 images of 16 px in one call"):
            rendering.picture(generator, Recipe(bundle=bundle_hash(bundle), **{**facts, **recipe}))
    with pytest.raises(InputError, match="3 images of 16 px in one call"):
        generate_images(bundle.path, [0, 1, 2], Path("nowhere"), 1.0, False, PictureOptions(), lambda *_: None)


def test_bundles_that_take_noise_are_refused(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    b = export_bundle(make_checkpoint(), tmp_path / "b", ["fp32"], noise="input").path
    with pytest.raises(StylertError, match="noise"):
        mix(b, tmp_path / "m.png")
    assert not (tmp_path / "m.png").exists()
