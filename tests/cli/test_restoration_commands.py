"""`stylert restorer export` and `stylert restore` as somebody uses them: a public file, a bundle, photographs, and mistakes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.provenance.signing import EDITED_BY_MODEL, TRAINED_MODEL, source_type
from stylert.core.provenance.verification import verify_files
from stylert.runtime.media.image_metadata import read_comment, xmp_packet
from stylert.runtime.restoration import Restorer, RestorerBundle
from tests.cli.conftest import Run
from tests.models.restoration.public_files import public_file
from tests.runtime.restoration.restorers import photograph, write_bundle


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with a bundle for 16 px, and pictures."""
    write_bundle(tmp_path / "bundle")
    Image.fromarray(photograph(16, 16)).save(tmp_path / "face.png")
    Image.fromarray(photograph(30, 30)).save(tmp_path / "large.png")
    Image.fromarray(photograph(40, 60)).save(tmp_path / "group.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gfpgan", "gpen"])
def test_a_public_file_becomes_a_bundle_of_every_precision(network: str, run: Run, tmp_path: Path) -> None:
    file = public_file(tmp_path, network, 16, 1 / 32)
    code, out, err = run(
        "restorer", "export", file, "--out", "bundle", "--precision", "fp32,fp16,int8", "--json", "accuracy.json"
    )
    assert code == 0, err
    assert "wrote bundle" in out
    bundle = RestorerBundle.load("bundle")
    assert list(bundle.precisions) == ["fp16", "fp32", "int8"]
    assert (bundle.network, bundle.resolution) == (network, 16)
    figures = json.loads(Path("accuracy.json").read_text(encoding="utf-8"))["precisions"]
    for precision, least in (("fp32", 60), ("fp16", 50), ("int8", 35)):
        assert bundle.precision(precision).min_psnr_db == least
        assert min(row["psnr_db"] for row in figures[precision].values()) >= least
    assert set(bundle.precision("int8").recipe) == {"onnxruntime", "openvino"}
    first = {path.name: path.read_bytes() for path in Path("bundle").glob("*.fp*.onnx")}
    assert run("restorer", "export", file, "--out", "bundle", "--precision", "fp32,fp16")[0] == 0  # it replaces its own
    assert {path.name: path.read_bytes() for path in Path("bundle").glob("*.onnx")} == first  # and repeats its bytes


def test_a_restored_face_says_so(run: Run, inputs: Path) -> None:
    code, out, err = run("restore", "face.png", "--bundle", "bundle", "--out", "restored")
    assert code == 0, err
    assert "wrote restored/face.png" in out
    assert "resized" not in err
    facts = json.loads(read_comment("restored/face.png"))
    assert (facts["AI-edited"], facts["command"], facts["precision"]) == (True, "restore", "fp32")
    assert facts["bundle"] == RestorerBundle.load("bundle").sha256
    assert facts["photo"] == hashlib.sha256(Path("face.png").read_bytes()).hexdigest()
    with Restorer.load("bundle") as restorer, Image.open("restored/face.png", formats=["PNG"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), restorer.restore(photograph(16, 16)[None])[0])


def test_another_size_is_resized_and_told(run: Run, inputs: Path) -> None:
    code, _, err = run("restore", "large.png", "--bundle", "bundle", "--out", "restored")
    assert code == 0, err
    assert "large.png: resized from 30 x 30 to 16 x 16 pixels" in err
    with Image.open("restored/large.png", formats=["PNG"]) as picture:
        assert picture.size == (16, 16)


def test_faces_in_boxes_are_put_back(run: Run, inputs: Path) -> None:
    boxes = ("--box", "2,3,16", "--box", "30,4,24")
    code, _, err = run("restore", "group.png", "--bundle", "bundle", "--out", "restored", *boxes, "--batch", 2)
    assert code == 0, err
    with Image.open("restored/group.png", formats=["PNG"]) as picture:
        restored = np.asarray(picture)
    photo = photograph(40, 60)
    outside = np.ones((40, 60), bool)
    outside[3:19, 2:18] = outside[4:28, 30:54] = False
    np.testing.assert_array_equal(restored[outside], photo[outside])
    assert (restored[3:19, 2:18] != photo[3:19, 2:18]).mean() > 0.5
    assert json.loads(read_comment("restored/group.png"))["boxes"] == ["2,3,16", "30,4,24"]


def test_a_signed_picture_is_edited_by_a_model(run: Run, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(inputs / "settings"))
    monkeypatch.setenv("STYLERT_SIGN", "")
    assert run("provenance", "init")[0] == 0
    assert run("restore", "face.png", "--bundle", "bundle", "--out", "restored")[0] == 0
    (verdict,) = verify_files([Path("restored/face.png")])
    assert (verdict.state, verdict.source) == ("valid", "compositeWithTrainedAlgorithmicMedia")
    assert json.loads(verdict.recipe or "")["AI-edited"] is True


def test_the_source_of_a_file_follows_from_its_comment() -> None:
    assert source_type('{"AI-edited": true}') == EDITED_BY_MODEL
    assert source_type('{"AI-generated": true}') == source_type(None) == source_type("no JSON") == TRAINED_MODEL
    assert EDITED_BY_MODEL.encode() in xmp_packet('{"AI-edited": true}')
    assert TRAINED_MODEL.encode() in xmp_packet("text")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("group.png",), "group.png has 60 x 40 pixels: give the square of each face with --box"),
        (("group.png", "--box", "50,0,16"), "the box 50,0,16 reaches out of the picture"),
        (("face.png", "--box", "1,2"), "a box is left,top,side in pixels"),
        (("face.png", "--precision", "fp16"), "has no 'fp16' network, only: fp32"),
        (("face.png", "--backend", "tensorrt"), "restorers run on onnxruntime and openvino"),
        (("missing.png",), "missing.png"),
        (("bundle/restorer.json",), "cannot be read as a picture"),
        (("face.png", "face.png"), "two photographs have one name"),
        (("face.png", "large.png", "group.png"), "group.png has 60 x 40 pixels"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments: tuple[str, ...], problem: str, run: Run, inputs: Path) -> None:
    code, out, err = run("restore", *arguments, "--bundle", "bundle", "--out", "restored")
    assert (code, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1
    assert not (inputs / "restored").exists()


def test_a_photograph_is_not_replaced(run: Run, inputs: Path) -> None:
    before = (inputs / "face.png").read_bytes()
    code, _, err = run("restore", "face.png", "--bundle", "bundle", "--out", ".")
    assert code == 2
    assert "it is an input" in err
    (inputs / "restored").mkdir()
    Image.new("RGB", (4, 4)).save(inputs / "restored" / "face.png")
    code, _, err = run("restore", "face.png", "--bundle", "bundle", "--out", "restored")
    assert code == 2
    assert "stylert did not draw the file there" in err
    assert (inputs / "face.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("face.png", "--out", "new"), "cannot import face.png"),
        (("gpen.pth", "--out", "new", "--precision", "fp8"), "exported in fp32, fp16, int8, not in 'fp8'"),
        (("gpen.pth", "--out", "new", "--photo", "face.png"), "at least two photographs"),
        (("gpen.pth", "--out", "other"), "other exists and is no bundle of a restorer"),
        (("gpen.pth", "--out", "."), ". exists and is no bundle of a restorer"),
    ],
)
def test_a_mistake_in_an_export_is_one_line(arguments: tuple[str, ...], problem: str, run: Run, inputs: Path) -> None:
    public_file(inputs, "gpen", 8)
    (inputs / "other").mkdir()
    (inputs / "other" / "file").write_text("kept", encoding="utf-8")
    code, _, err = run("restorer", "export", *arguments)
    assert code == 2
    assert problem in err
    assert err.count("\n") == 1
    assert (inputs / "other" / "file").read_text(encoding="utf-8") == "kept"
    assert not (inputs / "new").exists()
