"""`stylert directions` and `edit` as somebody uses them: find, show, draw, repeat, and mistakes in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import read_generator
from stylert.models.stylegan2.style_space import map_z, style_index
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.recipes import read_recipe
from stylert.runtime.steering.directions_file import read_directions
from tests.cli.conftest import Run
from tests.cli.test_latents import steps_apart, tiles


@pytest.fixture(scope="module")
def steerable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the input for styles."""
    return export_bundle(checkpoint, tmp_path_factory.mktemp("export") / "bundle", ["fp32", "int8"], style_offsets=True)


def write_scores(path: Path, checkpoint: Path, channel: int = 0) -> None:
    """Scores `bright` that a component of w makes, and `chance`; some are empty."""
    weights = read_generator(checkpoint)
    z = np.concatenate([np.random.RandomState(seed).randn(1, weights.config.z_dim) for seed in range(80)])
    scores = map_z(weights.config, weights.arrays, z)[:, channel]
    chance = np.random.default_rng(0).standard_normal(80)
    lines = [f"{seed},{score:.6f},{'' if seed % 9 == 0 else chance[seed]}" for seed, score in enumerate(scores)]
    path.write_text("\n".join(["seed,bright,chance", *lines]) + "\n")


@pytest.mark.parametrize(("command", "first"), [("sefa", "sefa0"), ("pca", "pc0")])
def test_unsupervised_directions_move_by_a_standard_deviation(
    command: str, first: str, run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    code, out, _ = run("directions", command, checkpoint, "--out", "d.safetensors", "--count", 4, "--levels", "coarse")
    assert (code, "latents 0-2" in out, "wrote d.safetensors" in out) == (0, True, True)
    directions = read_directions(tmp_path / "d.safetensors")
    assert list(directions.by_name) == [f"{first[:-1]}{i}" for i in range(4)]
    weights = read_generator(checkpoint)
    z = np.random.RandomState(7).randn(20_000, weights.config.z_dim)
    w = map_z(weights.config, weights.arrays, z)
    for direction in directions.by_name.values():
        unit = np.linalg.norm(direction.vector)
        assert (w @ direction.vector / unit).std() == pytest.approx(unit, rel=0.05)
        assert direction.latents == (0, 1, 2)
    run("directions", command, checkpoint, "--out", "e.safetensors", "--count", 4, "--levels", "coarse")
    assert (tmp_path / "d.safetensors").read_bytes() == (tmp_path / "e.safetensors").read_bytes()
    assert run("directions", "show", "d.safetensors")[1] in out


def test_sefa_has_the_styles_of_the_chosen_latents_alone(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    import scipy.linalg

    weights = read_generator(checkpoint)
    for levels, layers in (("0", ["b4.conv1"]), ("4-5", ["b16.conv1", "b16.torgb"])):
        run("directions", "sefa", checkpoint, "--out", "d.safetensors", "--count", 1, "--levels", levels)
        (direction,) = read_directions(tmp_path / "d.safetensors").by_name.values()
        affine = np.concatenate([weights.arrays[f"synthesis.{layer}.affine.weight"] for layer in layers]).astype(np.float64)
        expected = scipy.linalg.eigh(affine.T @ affine)[1][:, -1]
        assert abs(expected @ direction.vector) / np.linalg.norm(direction.vector) == pytest.approx(1, abs=1e-6)


def test_scores_give_a_direction_for_each_column(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    write_scores(tmp_path / "s.csv", checkpoint)
    assert run("directions", "scores", checkpoint, "s.csv", "--out", "d.safetensors")[0] == 0
    directions = read_directions(tmp_path / "d.safetensors")
    assert list(directions.by_name) == ["bright", "chance"]
    bright = directions["bright"]
    assert abs(bright.vector[0]) > 0.99 * np.linalg.norm(bright.vector)
    assert bright.vector[0] > 0
    assert bright.facts["correlation"] > 0.99 > 0.5 > directions["chance"].facts["correlation"]
    assert (bright.facts["images"], directions["chance"].facts["images"]) == (80, 71)


def test_scores_find_the_style_that_tells_them(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    weights = read_generator(checkpoint)
    z = np.concatenate([np.random.RandomState(seed).randn(1, weights.config.z_dim) for seed in range(60)])
    row = weights.arrays["synthesis.b8.conv0.affine.weight"][5]
    scores = -(map_z(weights.config, weights.arrays, z) @ row)
    (tmp_path / "s.csv").write_text("seed,dark\n" + "".join(f"{i},{s}\n" for i, s in enumerate(scores)))
    assert run("directions", "scores", checkpoint, "s.csv", "--out", "d.safetensors", "--styles", 3)[0] == 0
    names = read_directions(tmp_path / "d.safetensors").by_name
    first = next(iter(names))
    assert (first, len(names)) == ("dark.b8.conv0.5", 3)
    place = style_index(weights.config, "b8.conv0.5")
    assert names[first].vector[place] < 0  # so that the score rises
    assert np.count_nonzero(names[first].vector) == 1


def test_a_style_that_is_named_in_two_ways_is_one_direction(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    names = "b4.conv1.3,b4.conv1.003,b8.conv0.00"
    assert run("directions", "styles", checkpoint, "--names", names, "--out", "d.safetensors")[0] == 0
    assert list(read_directions(tmp_path / "d.safetensors").by_name) == ["b4.conv1.3", "b8.conv0.0"]


def test_names_are_refused_before_the_checkpoint_is_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylert.cli.latents.finding.read_stylegan2_generator", None)
    (tmp_path / "s.csv").write_text("seed,hair colour\n" + "".join(f"{i},{i}\n" for i in range(9)))
    pictures = ("--bundle", "b", "--with", ".", "--without", ".", "--name")
    for args in (("scores", "c", "s.csv"), ("pictures", "c", *pictures, "hair colour"), ("pictures", "c", *pictures, "x" * 41)):
        code, _, err = run("directions", *args, "--out", "d.safetensors")
        assert (code, "a direction has a name" in err) == (2, True), err


def test_pictures_give_a_direction(run: Run, checkpoint: Path, steerable: Bundle, tmp_path: Path) -> None:
    for folder, seeds in (("yes", "0-7"), ("no", "8-19")):
        assert run("generate", steerable.path, "--seeds", seeds, "--out", folder)[0] == 0
    given = ("directions", "pictures", checkpoint, "--bundle", steerable.path, "--name", "smile", "--with", "yes")
    assert run(*given, "--without", "no", "--out", "d.safetensors")[0] == 0
    (tmp_path / "s.csv").write_text("seed,smile\n" + "".join(f"{seed},{int(seed < 8)}\n" for seed in range(20)))
    assert run("directions", "scores", checkpoint, "s.csv", "--out", "e.safetensors")[0] == 0
    one, other = (read_directions(tmp_path / name)["smile"].vector for name in ("d.safetensors", "e.safetensors"))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_edit_draws_the_moved_images_and_is_repeated(
    backend: str, precision: str, run: Run, checkpoint: Path, steerable: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    run("directions", "pca", checkpoint, "--out", "pca.safetensors", "--count", 2)
    run("directions", "styles", checkpoint, "--names", "b4.conv1.3,b16.torgb.0", "--out", "styles.safetensors")
    assert run("directions", "join", "pca.safetensors", "styles.safetensors", "--out", "d.safetensors")[0] == 0
    options = ("--backend", backend, "--precision", precision)
    moves = ("--direction", "pc0@coarse=-2,0,2", "--direction", "b4.conv1.3=1.5", "--direction", "b16.torgb.0=0,1,2")
    code, out, err = run(
        "edit",
        steerable.path,
        "--directions",
        "d.safetensors",
        *moves,
        "--seeds",
        "3,4",
        "--out",
        "e.png",
        "--psi",
        0.7,
        *options,
    )
    assert (code, out.strip()) == (0, "wrote e.png"), err
    directions, grid = read_directions(tmp_path / "d.safetensors"), tiles(tmp_path / "e.png")
    assert grid.shape[:2] == (2, 3)
    with Generator.load(steerable, backend, precision) as g:
        z = np.concatenate([np.random.RandomState(seed).randn(1, g.bundle.model["z_dim"]) for seed in (3, 4)])
        ws = g.map(z, psi=0.7)
        for column, (strength, rgb) in enumerate(((-2, 0), (0, 1), (2, 2))):
            moved = ws.copy()
            moved[:, :3] += strength * directions["pc0"].vector
            offsets = 1.5 * directions["b4.conv1.3"].vector + rgb * directions["b16.torgb.0"].vector
            images = g.synthesize(moved, style_offsets=np.tile(offsets, (2, 1)))
            # Other batches may round otherwise, which 8 bits show.
            assert np.abs(grid[:, column].astype(int) - images).mean() <= (0.5 if precision == "fp32" else 4)
    assert steps_apart(grid[:, 0], grid[:, 2]) > 20
    again = ("again", "e.png", "--bundle", steerable.path, "--out", "again.png")
    assert run(*again, "--directions", "d.safetensors")[0] == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "e.png").read_bytes()
    assert read_recipe(tmp_path / "e.png").directions == directions.sha256
    assert run(*again)[0] == run(*again, "--directions", "pca.safetensors")[0] == 2


def test_a_move_in_w_needs_no_input_for_styles(run: Run, checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    run("directions", "pca", checkpoint, "--out", "d.safetensors", "--count", 1)
    given = ("edit", bundle.path, "--directions", "d.safetensors", "--seeds", "0", "--out", "e.png")
    assert run(*given, "--direction", "pc0=0")[0] == 0
    with Generator.load(bundle) as g:
        assert steps_apart(tiles(tmp_path / "e.png")[0], g([0])) <= 1


def test_a_contact_sheet_has_a_row_for_each_direction(run: Run, checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    run("directions", "pca", checkpoint, "--out", "d.safetensors", "--count", 12)
    given = ("directions", "sheet", bundle.path, "d.safetensors", "--seed", 5)
    code, out, _ = run(*given, "--out", "all.png")
    assert (code, Image.open(tmp_path / "all.png").size) == (0, (5 * 16, 10 * 16))
    assert "pc0, pc1" in out
    assert run(*given, "--out", "two.png", "--names", "pc7,pc2", "--strengths", "-1,2")[0] == 0
    sheet = tiles(tmp_path / "two.png")
    assert sheet.shape[:2] == (2, 2)
    edit = ("edit", bundle.path, "--directions", "d.safetensors", "--seeds", 5, "--out", "e.png")
    assert run(*edit, "--direction", "pc2=-1,2")[0] == 0
    assert steps_apart(tiles(tmp_path / "e.png")[0], sheet[1]) <= 1
    assert run("again", "two.png", "--bundle", bundle.path, "--directions", "d.safetensors", "--out", "b.png")[0] == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_labels_are_taken_from_the_scores(run: Run, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    conditional = make_checkpoint(c_dim=3)
    correlations = []
    for classes in (3, 1):  # the score depends on the class, and then on nothing
        lines = [f"{i},{i % classes},{int(i % 3 == 1)}" for i in range(300)]
        (tmp_path / "s.csv").write_text("\n".join(["seed,class,a", *lines]))
        assert run("directions", "scores", conditional, "s.csv", "--out", "d.safetensors")[0] == 0
        correlations.append(read_directions(tmp_path / "d.safetensors")["a"].facts["correlation"])
    assert correlations[0] > 0.6
    assert abs(correlations[1]) < 0.3
    assert run("directions", "pca", conditional, "--out", "p.safetensors")[0] == 0
    (tmp_path / "t.csv").write_text("seed,a\n" + "".join(f"{i},{i}\n" for i in range(30)))
    (tmp_path / "u.csv").write_text("seed,class,a\n" + "".join(f"{i},3,{i}\n" for i in range(30)))
    for table in ("t.csv", "u.csv"):
        code, _, err = run("directions", "scores", conditional, table, "--out", "x.safetensors")
        assert (code, len(err.strip().splitlines()), (tmp_path / "x.safetensors").exists()) == (2, 1, False)


def test_every_mistake_is_one_line_and_leaves_no_file(
    run: Run, checkpoint: Path, make_checkpoint: Callable[..., Path], bundle: Bundle, tmp_path: Path
) -> None:
    write_scores(tmp_path / "s.csv", checkpoint)
    (tmp_path / "short.csv").write_text("seed,a\n1,2\n2,3\n")
    (tmp_path / "same.csv").write_text("seed,a\n" + "".join(f"{i},1\n" for i in range(20)))
    (tmp_path / "labels.csv").write_text("seed,class,a\n" + "".join(f"{i},1,{i}\n" for i in range(20)))
    (tmp_path / "named.csv").write_text("seed,a=b\n" + "".join(f"{i},{i}\n" for i in range(20)))
    (tmp_path / "text").write_text("x")
    run("directions", "pca", checkpoint, "--out", "d.safetensors", "--count", 2)
    run("directions", "styles", checkpoint, "--names", "b4.conv1.0", "--out", "s.safetensors")
    run("directions", "pca", make_checkpoint(another=True), "--out", "other.safetensors", "--count", 3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    out = ("--out", "o.safetensors")
    edit = ("edit", bundle.path, "--seeds", "0", "--out", "o.png", "--directions")
    for args, words in [
        (("directions", "sefa", "none", *out), "does not exist"),
        (("directions", "sefa", "text", *out), "text"),
        (("directions", "sefa", checkpoint, *out, "--levels", "rough"), "levels"),
        (("directions", "sefa", checkpoint, *out, "--levels", "fine"), "no fine level"),
        (("directions", "sefa", checkpoint, *out, "--count", 21), "has 20 directions"),
        (("directions", "sefa", checkpoint, "--out", checkpoint), "input"),
        (("directions", "sefa", checkpoint, "--out", "text"), "did not write"),
        (("directions", "sefa", checkpoint, "--out", "s.csv/x"), "s.csv"),
        (("directions", "pca", checkpoint, *out, "--samples", 3), "--samples"),
        (("directions", "scores", checkpoint, "none.csv", *out), "does not exist"),
        (("directions", "scores", checkpoint, "short.csv", *out), "scores"),
        (("directions", "scores", checkpoint, "same.csv", *out), "differ"),
        (("directions", "scores", checkpoint, "labels.csv", *out), "labels"),
        (("directions", "scores", checkpoint, "named.csv", *out), "name"),
        (("directions", "scores", checkpoint, "s.csv", *out, "--styles", 2, "--levels", "0"), "--levels"),
        (("directions", "scores", checkpoint, "s.csv", "--out", "s.csv"), "input"),
        (("directions", "styles", checkpoint, "--names", "b4.conv9.0", *out), "b4.conv9.0"),
        (("directions", "pictures", checkpoint, "--bundle", "none", "--name", "hair colour", "--with", ".", "--without", ".", *out),
         "a direction has a name"),
        (("directions", "join", "d.safetensors", "other.safetensors", *out), "network"),
        (("directions", "join", "d.safetensors", "d.safetensors", *out), "pc0"),
        (("directions", "show", "text"), "safetensors"),
        (("directions", "show", checkpoint), "no directions"),
        ((*edit, "other.safetensors", "--direction", "pc0=1"), "belong to the network"),
        ((*edit, "d.safetensors", "--direction", "pc9=1"), "no direction"),
        ((*edit, "d.safetensors", "--direction", "pc0"), "NAME=STRENGTH"),
        ((*edit, "d.safetensors", "--direction", "pc0=1,2", "--direction", "pc1=1,2,3"), "2 and 3"),
        ((*edit, "s.safetensors", "--direction", "b4.conv1.0=1"), "--style-offsets"),
        (("edit", bundle.path, "--seeds", "0", "--out", "d.safetensors", "--directions", "d.safetensors", "--direction", "pc0=1"), "input"),
        (("edit", bundle.path, "--seeds", "0", "--out", "o.bmp", "--directions", "d.safetensors", "--direction", "pc0=1"), "recipe"),
        (("directions", "sheet", bundle.path, "d.safetensors", "--out", "o.png", "--names", "x"), "no direction"),
        (("directions", "sheet", bundle.path, "d.safetensors", "--out", "o.png", "--strengths", "a"), "NAME=STRENGTH"),
        (("directions", "pictures", make_checkpoint(another=True), "--bundle", bundle.path, "--name", "a", "--with", ".",
          "--without", ".", *out), "not the checkpoint"),
    ]:  # fmt: skip
        code, _, err = run(*args)
        assert (code, len(err.strip().splitlines())) == (2, 1), (args, err)
        assert words in err, (args, err)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before, args
