"""The pictures of a server are signed, and a key that cannot sign is an answer that asks to try again later."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

import httpx
import pytest

from stylert.core.errors import BundleError
from stylert.core.provenance.signing import forget_signer
from stylert.core.provenance.verification import verify_files
from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.server import BundleSource
from tests.core.provenance.certificate_chains import make_chain
from tests.runtime.serving.conftest import running

FORMATS = ("png", "jpg", "webp")


def test_pictures_are_signed_in_every_format(client: httpx.Client, signing_folder: Path, tmp_path: Path) -> None:
    paths = []
    for suffix in FORMATS:
        paths.append(tmp_path / f"picture.{suffix}")
        paths[-1].write_bytes(client.get(f"/v1/images/7.{suffix}").content)
    verdicts = verify_files(paths)
    assert [verdict.state for verdict in verdicts] == ["valid"] * 3
    assert [json.loads(verdict.recipe or "{}")["seeds"] for verdict in verdicts] == ["7"] * 3


def test_several_pictures_are_signed_in_a_zip_and_in_json(client: httpx.Client, signing_folder: Path, tmp_path: Path) -> None:
    order = {"seeds": [1, 2]}
    with zipfile.ZipFile(io.BytesIO(client.post("/v1/images", json=order).content)) as archive:
        archive.extractall(tmp_path / "zip")
    answer = client.post("/v1/images", json=order, headers={"Accept": "application/json"}).json()
    (tmp_path / "json.png").write_bytes(base64.b64decode(answer["images"][0]["base64"]))
    paths = [*sorted((tmp_path / "zip").iterdir()), tmp_path / "json.png"]
    assert [verdict.state for verdict in verify_files(paths)] == ["valid"] * 3


def test_without_a_key_pictures_are_not_signed(client: httpx.Client) -> None:
    assert b"c2pa" not in client.get("/v1/images/7.png").content


def test_a_key_that_cannot_sign_is_an_answer_without_a_picture(client: httpx.Client, signing_folder: Path) -> None:
    (signing_folder / "key.pem").write_bytes(make_chain().key)
    forget_signer()
    answer = client.get("/v1/images/7.png")
    assert answer.status_code == 503
    assert "cannot be signed" in answer.json()["error"]
    assert "PRIVATE" not in answer.text


def test_a_server_that_requires_a_signature_refuses_other_bundles(bundle: Bundle, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(make_chain().pem)
    with (
        pytest.raises(BundleError, match="is not signed"),
        running([BundleSource("small", bundle.path, ("fp32",), "onnxruntime", 1, trusted)]),
    ):
        pass
