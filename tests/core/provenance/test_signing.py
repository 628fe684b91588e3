"""Signed pictures are valid in two readers that share no code, hold what made them, and no key.

The second reader, encypher-c2pa, is written without the library that signs (c2pa-rs).
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from PIL import Image

from stylert.core.errors import SigningError
from stylert.core.images.grids import save_grid
from stylert.core.provenance import signing
from stylert.core.provenance.certificates import CheckedChain
from stylert.core.provenance.credentials import (
    PURPOSES,
    read_credential,
    remove_credential,
    user_credential,
    write_test_credential,
)
from stylert.core.provenance.media_types import MEDIA_TYPES
from stylert.core.provenance.signing import (
    RECIPE_LABEL,
    TRAINED_MODEL,
    Signer,
    active_signer,
    check_signs,
    forget_signer,
    signed,
)
from stylert.core.provenance.verification import verify_files
from stylert.runtime.media.image_metadata import read_comment
from stylert.runtime.media.pictures import encoded_image, save_image
from stylert.runtime.media.video import write_video
from tests.core.provenance.certificate_chains import make_chain
from tests.core.provenance.test_certificates import KEYS
from tests.core.provenance.test_credentials import written
from tests.draws import run_seed

RECIPE = json.dumps({"AI-generated": True, "command": "generate", "bundle": "ab" * 32, "psi": [0.7]})
STILLS = (".png", ".jpg", ".jpeg", ".webp", ".gif")
VIDEOS = (".mp4", ".webp", ".gif")


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCYPHER_C2PA_TELEMETRY", "off")


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (40, 56, 3), np.uint8)


def states(path: Path) -> tuple[str, str]:
    """The state of a file in both readers: Valid or Invalid, and valid or invalid. A file that one cannot read is `unreadable`."""
    import c2pa
    from encypher_c2pa import verify

    try:
        with c2pa.Reader(str(path), context=offline()) as reader:
            first = str(reader.get_validation_state())
    except c2pa.C2paError:
        first = "unreadable"
    try:
        second = str(verify(str(path))["integrity"])
    except ValueError:
        second = "unreadable"
    return first, second


def offline() -> Any:
    import c2pa

    return c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}})


def manifest(path: Path) -> dict[str, Any]:
    import c2pa

    with c2pa.Reader(str(path), context=offline()) as reader:
        report = json.loads(reader.json())
    return dict(report["manifests"][report["active_manifest"]])


def assertion(path: Path, label: str) -> dict[str, Any]:
    (data,) = [a["data"] for a in manifest(path)["assertions"] if a["label"] == label]
    return dict(data)


def of_certificate(path: Path, certificates: bytes) -> str:
    """The trust of the second reader, which is given the certificates of the authority."""
    from encypher_c2pa import verify

    authority = b"-----BEGIN" + certificates.rpartition(b"-----BEGIN")[2]
    return str(verify(str(path), trust_pem=authority.decode())["trust"]["status"])


@pytest.mark.parametrize("suffix", STILLS)
def test_a_signed_picture_is_valid_in_both_readers(
    suffix: str, image: np.ndarray, signing_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"picture{suffix}"
    save_image(image, path, RECIPE)
    assert states(path) == ("Valid", "valid")
    assert read_comment(path) == RECIPE
    with Image.open(path) as opened:
        assert opened.size == (56, 40)
        opened.load()


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize("count", [2, 30])
def test_a_signed_video_is_valid_in_both_readers(
    suffix: str, count: int, signing_folder: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / f"video{suffix}"
    write_video(path, iter([rng.integers(0, 256, (count, 32, 48, 3), np.uint8)]), 10, RECIPE)
    assert states(path) == ("Valid", "valid")
    assert read_comment(path) == RECIPE
    assert _frames(path) == count
    assert [file.name for file in tmp_path.glob("*video*")] == [path.name]


def test_a_signed_picture_of_the_server_is_valid_in_both_readers(
    image: np.ndarray, signing_folder: Path, tmp_path: Path
) -> None:
    for suffix in (".png", ".jpg", ".webp"):
        path = tmp_path / f"picture{suffix}"
        path.write_bytes(encoded_image(image, suffix, RECIPE))
        assert states(path) == ("Valid", "valid")


def test_the_pixels_of_a_signed_picture_are_those_of_the_unsigned_one(
    image: np.ndarray, signing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suffix in (".png", ".jpg", ".webp"):
        save_image(image, tmp_path / f"signed{suffix}", RECIPE)
        monkeypatch.setenv("STYLERT_SIGN", "off")
        save_image(image, tmp_path / f"unsigned{suffix}", RECIPE)
        monkeypatch.delenv("STYLERT_SIGN")
        with Image.open(tmp_path / f"signed{suffix}") as a, Image.open(tmp_path / f"unsigned{suffix}") as b:
            assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_manifest_says_what_made_the_picture(image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_image(image, path, RECIPE)
    (action,) = assertion(path, "c2pa.actions.v2")["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", TRAINED_MODEL)
    assert action["softwareAgent"]["name"] == "stylert"
    assert manifest(path)["claim_generator_info"][0]["name"] == "stylert"
    assert assertion(path, RECIPE_LABEL) == {"schema": 1, "bundle": "ab" * 32, "recipe": RECIPE}


@pytest.mark.parametrize(("comment", "generated"), [(None, True), ("cats", True), ('["cats"]', True), (RECIPE, False)])
def test_a_picture_that_a_model_made_is_signed(
    comment: str | None, generated: bool, image: np.ndarray, signing_folder: Path, tmp_path: Path
) -> None:
    save_image(image, tmp_path / "picture.png", comment, generated)
    assert states(tmp_path / "picture.png") == ("Valid", "valid")
    assert any(a["label"] == RECIPE_LABEL for a in manifest(tmp_path / "picture.png")["assertions"]) == (comment is not None)


@pytest.mark.parametrize(
    "comment", [None, "cats", "[1]", '{"AI-generated": false}', '{"AI-generated": "true"}', "[" * 50_000, '{"a":' * 9_000]
)
def test_another_picture_is_not_signed(comment: str | None, image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    save_image(image, tmp_path / "signed.png", comment)
    save_grid(image[None], tmp_path / "grid.png")
    assert b"c2pa" not in (tmp_path / "signed.png").read_bytes()
    assert b"c2pa" not in (tmp_path / "grid.png").read_bytes()


def test_a_generated_grid_is_signed(image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    save_grid(image[None], tmp_path / "grid.png", generated=True)
    assert states(tmp_path / "grid.png") == ("Valid", "valid")


@pytest.mark.parametrize("suffix", [".bmp", ".tiff"])
def test_formats_without_manifests_are_written_as_before(
    suffix: str, image: np.ndarray, signing_folder: Path, tmp_path: Path
) -> None:
    assert suffix not in MEDIA_TYPES
    save_image(image, tmp_path / f"a{suffix}", generated=True)
    with Image.open(tmp_path / f"a{suffix}") as opened:
        assert np.array_equal(np.asarray(opened), image)


def test_without_a_key_the_bytes_are_those_of_before(image: np.ndarray, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    save_image(image, tmp_path / "a.png", generated=True)
    assert (tmp_path / "a.png").read_bytes() == buffer.getvalue()
    assert signed(b"bytes", ".png", RECIPE) == b"bytes"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif"])
def test_a_changed_byte_is_found_by_both_readers(suffix: str, image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    """Bytes of the picture count: those of the manifest hold padding, which no reader compares."""
    draws = random.Random(run_seed())
    plain = encoded_image(image, suffix) if suffix != ".gif" else _gif(image)
    data = signed(plain, suffix, RECIPE)
    start = next(i for i in range(len(data)) if data[i:] == plain[len(plain) - (len(data) - i) :]) if suffix != ".webp" else 40
    end = len(data) if suffix != ".webp" else 12 + len(plain) // 2
    path = tmp_path / f"changed{suffix}"
    for _ in range(20):
        changed = bytearray(data)
        changed[draws.randrange(start, end)] ^= 1 << draws.randrange(8)
        path.write_bytes(changed)
        first, second = states(path)
        assert first != "Valid"
        assert second != "valid"


def test_a_changed_recipe_is_found_by_both_readers(image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_image(image, path, RECIPE)
    data = path.read_bytes()
    assert data.count(b"ab" * 32) >= 2  # in the comment, and in the manifest
    path.write_bytes(data.replace(b"ab" * 32, b"cd" * 32))
    first, second = states(path)
    assert first != "Valid"
    assert second != "valid"


def test_no_file_and_no_log_holds_the_key(
    image: np.ndarray, signing_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    caplog.set_level(logging.DEBUG)
    forget_signer()
    pem = (signing_folder / "key.pem").read_bytes()
    number = load_pem_private_key(pem, None).private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    for suffix in STILLS:
        save_image(image, tmp_path / f"picture{suffix}", RECIPE)
        data = (tmp_path / f"picture{suffix}").read_bytes()
        assert number not in data
        assert pem.splitlines()[1] not in data
    assert pem.splitlines()[1].decode() not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("algorithm", KEYS)
def test_the_key_of_a_user_signs_and_its_authority_is_trusted(algorithm: str, image: np.ndarray, tmp_path: Path) -> None:
    chain = make_chain(KEYS[algorithm](), intermediate=True)
    credential = user_credential(*written(tmp_path, chain))
    check_signs(credential)
    out = tmp_path / "a.png"
    with open(out, "w+b") as file:
        Signer(credential).sign(io.BytesIO(encoded_image(image, ".png")), file, ".png", RECIPE)
    assert states(out) == ("Valid", "valid")
    assert of_certificate(out, chain.pem) == "valid_for_supplied_material"
    assert manifest(out)["signature_info"]["alg"].lower() == algorithm


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_certificate_for_each_purpose_signs_and_is_trusted(purpose: str, image: np.ndarray, tmp_path: Path) -> None:
    chain = make_chain(purposes=(x509.ObjectIdentifier(purpose),))
    files = written(tmp_path, chain)
    credential = user_credential(*files)
    check_signs(credential)
    out = tmp_path / "a.png"
    with open(out, "w+b") as file:
        Signer(credential).sign(io.BytesIO(encoded_image(image, ".png")), file, ".png", RECIPE)
    (verdict,) = verify_files([out], files[0])
    assert (verdict.state, verdict.trust) == ("valid", "named")
    assert of_certificate(out, chain.pem) == "valid_for_supplied_material"


def test_threads_share_a_signer(image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    plain = encoded_image(image, ".png")
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda i: signed(plain, ".png", json.dumps({"AI-generated": True, "seeds": str(i)})), range(64)))
    for i, data in enumerate(files[::16]):
        (tmp_path / "a.png").write_bytes(data)
        assert states(tmp_path / "a.png") == ("Valid", "valid")
        assert json.loads(assertion(tmp_path / "a.png", RECIPE_LABEL)["recipe"])["seeds"] == str(16 * i)


def test_a_child_of_the_process_signs_too(image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    save_image(image, tmp_path / "parent.png", RECIPE)
    child = os.fork()
    if child == 0:
        try:
            save_image(image, tmp_path / "child.png", RECIPE)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert states(tmp_path / "child.png") == ("Valid", "valid")


def test_the_signer_is_found_once(signing_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_signer()
    reads = []
    monkeypatch.setattr(signing, "read_credential", lambda folder: reads.append(folder) or read_credential(folder))
    assert all(active_signer() is active_signer() for _ in range(5))
    assert reads == [signing_folder]


def test_a_process_that_runs_follows_init_and_remove(signing_folder: Path, image: np.ndarray) -> None:
    """A server must not go on with a key that was removed, replaced or opened to others, and it takes one that came later."""
    first = active_signer()
    assert first is not None
    write_test_credential(signing_folder, replace=True)
    second = active_signer()
    assert second is not None
    assert second.certificates_sha256 != first.certificates_sha256
    (signing_folder / "key.pem").chmod(0o644)
    with pytest.raises(SigningError, match="open to every user"):
        signed(encoded_image(image, ".png"), ".png", RECIPE)
    (signing_folder / "key.pem").chmod(0o600)
    assert active_signer() is not None
    remove_credential(signing_folder)
    assert active_signer() is None
    write_test_credential(signing_folder)
    assert active_signer() is not None


def test_a_chain_that_expires_later_is_told_and_its_successor_is_taken(
    signing_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = active_signer()
    assert signer is not None
    expired = make_chain(start=-9, end=-2)
    now = datetime.datetime.now(datetime.UTC)
    monkeypatch.setattr(signer, "chain", CheckedChain("es256", "Ada", now, False))
    (signing_folder / "certificates.pem").write_bytes(expired.pem)
    (signing_folder / "key.pem").write_bytes(expired.key)
    with pytest.raises(SigningError, match="expired on"):
        active_signer()
    for name in ("certificates.pem", "key.pem"):  # files that others put there are not replaced
        (signing_folder / name).unlink()
    write_test_credential(signing_folder, replace=True)
    renewed = active_signer()
    assert renewed is not None
    assert renewed is not signer


def test_a_credential_that_cannot_sign_leaves_no_picture(image: np.ndarray, signing_folder: Path, tmp_path: Path) -> None:
    (signing_folder / "key.pem").write_bytes(make_chain().key)
    forget_signer()
    with pytest.raises(SigningError, match="not that of the first certificate"):
        save_image(image, tmp_path / "a.png", RECIPE)
    with pytest.raises(SigningError):
        write_video(tmp_path / "a.gif", iter([image[None]]), 10, RECIPE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["certificates.pem", "settings"]


def _frames(path: Path) -> int:
    if path.suffix == ".mp4":
        import av

        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    with Image.open(path) as opened:
        return int(opened.n_frames)  # type: ignore[attr-defined]


def _gif(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "GIF")
    return buffer.getvalue()
