"""A signature covers every byte of a bundle that is loaded, and is refused unless a trusted certificate vouches for it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError, InputError, SigningError
from stylert.core.files.digests import sha256_of
from stylert.core.provenance import statements
from stylert.core.provenance.credentials import Credential, write_test_credential, write_user_credential
from stylert.core.provenance.statements import sign_statement
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle_signature import SIGNATURE_FILE, sign_bundle
from stylert.runtime.engines import build_engine
from tests.core.provenance.certificate_chains import make_chain, pem
from tests.core.provenance.test_certificates import KEYS
from tests.core.provenance.test_credentials import written
from tests.draws import run_seed
from tests.faults import started


@pytest.fixture
def signed_bundle(bundle: Bundle, signing_folder: Path, tmp_path: Path) -> Path:
    """A signed copy of the small bundle. Its signer's chain is in `tmp_path / "certificates.pem"`."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    assert sign_bundle(copy).startswith("unnamed user")
    return copy


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    return tmp_path / "certificates.pem"


def test_a_signed_bundle_makes_the_same_images(signed_bundle: Path, trusted: Path) -> None:
    with Generator.load(signed_bundle, require_signature=trusted) as required, Generator.load(signed_bundle) as plain:
        assert np.array_equal(required([3]), plain([3]))


def test_a_loaded_bundle_is_read_again_where_a_signature_is_required(signed_bundle: Path, trusted: Path) -> None:
    loaded = Bundle.load(signed_bundle)
    (signed_bundle / SIGNATURE_FILE).unlink()
    with pytest.raises(BundleError, match="is not signed"):
        Generator.load(loaded, require_signature=trusted)


def test_the_authority_alone_and_the_signer_alone_are_enough(signed_bundle: Path, trusted: Path, tmp_path: Path) -> None:
    from stylert.core.provenance.certificates import read_certificates

    for i, certificate in enumerate(read_certificates(trusted.read_bytes())):
        (tmp_path / f"{i}.pem").write_bytes(pem(certificate))
        Bundle.load(signed_bundle, tmp_path / f"{i}.pem")


@pytest.mark.parametrize("algorithm", KEYS)
def test_keys_of_every_algorithm_sign(algorithm: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = make_chain(KEYS[algorithm](), intermediate=True)
    write_user_credential(tmp_path / "key", *written(tmp_path, chain))
    monkeypatch.setenv("STYLERT_SIGN", str(tmp_path / "key"))
    shutil.copytree(bundle.path, tmp_path / "bundle")
    sign_bundle(tmp_path / "bundle")
    root = tmp_path / "root.pem"
    root.write_bytes(pem(chain.certificates[-1]))
    assert Bundle.load(tmp_path / "bundle", root).signed_engines == {}
    root.write_bytes(pem(make_chain().certificates[-1]))
    with pytest.raises(BundleError, match="vouches for the signer, Ada"):
        Bundle.load(tmp_path / "bundle", root)


def test_openssl_finds_the_signature_right(signed_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    document = json.loads((signed_bundle / SIGNATURE_FILE).read_text())
    (tmp_path / "statement").write_text(document["statement"])
    (tmp_path / "signature").write_bytes(base64.b64decode(document["signature"]))
    (tmp_path / "signer.pem").write_text(document["certificates"])
    key = ["openssl", "x509", "-in", "signer.pem", "-noout", "-pubkey", "-out", "public.pem"]
    subprocess.run(key, cwd=tmp_path, check=True)
    check = ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "statement"]
    assert "Verified OK" in subprocess.run(check, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    manifest = hashlib.sha256((signed_bundle / "bundle.json").read_bytes()).hexdigest()
    assert json.loads(document["statement"])["manifest"] == manifest


def test_an_unsigned_bundle_is_refused_only_where_a_signature_is_required(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "trusted.pem").write_bytes(make_chain().pem)
    Generator.load(bundle.path).close()
    with pytest.raises(BundleError, match="sign-bundle"):
        Generator.load(bundle.path, require_signature=tmp_path / "trusted.pem")


def test_a_changed_byte_of_any_file_is_found(signed_bundle: Path, trusted: Path) -> None:
    draws = random.Random(run_seed())
    for file in sorted(signed_bundle.iterdir()):
        data = file.read_bytes()
        for _ in range(10):
            changed = bytearray(data)
            changed[draws.randrange(len(data))] ^= 1 << draws.randrange(7)
            file.write_bytes(changed)
            if _same_signature(file, data):
                continue
            with pytest.raises(BundleError) as refused:
                loaded = Bundle.load(signed_bundle, trusted)
                for name in loaded.files:
                    loaded.checked_file(name)
            assert "\n" not in str(refused.value)
        file.write_bytes(data)
    Bundle.load(signed_bundle, trusted)


def _same_signature(file: Path, original: bytes) -> bool:
    """Whether a change of the signature file left its content: a line of PEM may end in unused bits, and JSON may be spaced."""
    if file.name != SIGNATURE_FILE:
        return False
    from stylert.core.provenance.certificates import read_certificates

    try:
        a, b = json.loads(file.read_bytes()), json.loads(original)
        chains = [read_certificates(document["certificates"].encode()) for document in (a, b)]
        parts = [(document["statement"], base64.b64decode(document["signature"])) for document in (a, b)]
    except (ValueError, KeyError, InputError):
        return False
    return chains[0][0] == chains[1][0] and parts[0] == parts[1]


def test_the_signature_of_another_bundle_is_refused(
    signed_bundle: Path, trusted: Path, make_checkpoint: object, tmp_path: Path
) -> None:
    other = export_bundle(make_checkpoint(another=True), tmp_path / "other", ["fp32"], verify_seeds=0)  # type: ignore[operator]
    shutil.copy(signed_bundle / SIGNATURE_FILE, other.path)
    with pytest.raises(BundleError, match=r"bundle\.json was changed after it was signed"):
        Bundle.load(other.path, trusted)


def test_a_signed_text_of_another_kind_is_refused(
    signed_bundle: Path, trusted: Path, signing_folder: Path, tmp_path: Path
) -> None:
    from stylert.core.provenance.credentials import read_credential
    from stylert.core.provenance.statements import sign_statement

    credential: Credential = read_credential(signing_folder)
    statement = json.loads(json.loads((signed_bundle / SIGNATURE_FILE).read_text())["statement"])
    for change in ({"kind": "letter"}, {"schema": 2}):
        signed = sign_statement(credential, json.dumps({**statement, **change}))
        (signed_bundle / SIGNATURE_FILE).write_text(json.dumps(vars(signed)))
        with pytest.raises(BundleError, match="something else"):
            Bundle.load(signed_bundle, trusted)


def test_an_expired_signer_is_refused(
    bundle: Bundle, signing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylert.core.provenance.certificates import check_chain, make_test_chain
    from stylert.core.provenance.statements import sign_statement

    chain = make_chain(start=-9, end=-2)
    facts = check_chain(*make_test_chain())
    signed = sign_statement(Credential(chain.pem, chain.key, facts), "{}")
    shutil.copytree(bundle.path, tmp_path / "bundle")
    (tmp_path / "bundle" / SIGNATURE_FILE).write_text(json.dumps(vars(signed)))
    (tmp_path / "root.pem").write_bytes(chain.pem)
    with pytest.raises(BundleError, match=r"the certificate of Ada \(Example\) expired on"):
        Bundle.load(tmp_path / "bundle", tmp_path / "root.pem")


def test_an_engine_is_loaded_only_if_the_signature_covers_it(signed_bundle: Path, trusted: Path) -> None:
    build_engine(Bundle.load(signed_bundle), "onnxruntime", "fp32", BuildOptions(threads=1))

    def engine_of(trusted: Path | None) -> Path | None:
        with Generator.load(signed_bundle, threads=1, require_signature=trusted) as generator:
            return generator.engine

    assert engine_of(None) is not None
    assert engine_of(trusted) is None
    sign_bundle(signed_bundle)
    assert engine_of(trusted) is not None
    (file,) = signed_bundle.glob("engines/*/engine.json")
    file.write_text(file.read_text() + "\n")
    assert engine_of(None) is not None
    assert engine_of(trusted) is None


def test_an_export_over_a_signed_bundle_removes_the_signature(signed_bundle: Path, checkpoint: Path) -> None:
    export_bundle(checkpoint, signed_bundle, ["fp32"], verify_seeds=0)
    assert not (signed_bundle / SIGNATURE_FILE).exists()


def test_an_export_while_a_bundle_is_signed_removes_the_signature(
    signed_bundle: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    another, exports = make_checkpoint(another=True), []

    def sign_during_export(*arguments: Any) -> Any:
        exports.append(started(lambda: export_bundle(another, signed_bundle, ["fp32"])))
        return sign_statement(*arguments)

    monkeypatch.setattr(statements, "sign_statement", sign_during_export)
    sign_bundle(signed_bundle)
    exports[0].result()
    assert Bundle.load(signed_bundle).provenance["checkpoint_sha256"] == sha256_of(another)
    assert not (signed_bundle / SIGNATURE_FILE).exists()


def test_a_damaged_bundle_is_not_signed(bundle: Bundle, signing_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    with open(tmp_path / "bundle" / "mapping.onnx", "ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"mapping\.onnx"):
        sign_bundle(tmp_path / "bundle")
    assert not (tmp_path / "bundle" / SIGNATURE_FILE).exists()


def test_without_a_key_no_bundle_is_signed(bundle: Bundle) -> None:
    with pytest.raises(SigningError, match="provenance init"):
        sign_bundle(bundle.path)


def test_trusted_certificates_that_cannot_be_read_are_told(signed_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Bundle.load(signed_bundle, tmp_path / "none.pem")
    (tmp_path / "text.pem").write_text("text")
    with pytest.raises(InputError, match="BEGIN CERTIFICATE"):
        Bundle.load(signed_bundle, tmp_path / "text.pem")
    with pytest.raises(InputError, match="named by a path"):
        Bundle.load(signed_bundle, 3)  # type: ignore[arg-type]


def test_the_extra_is_named_where_it_is_missing(signed_bundle: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("certificates", "statements"):
        monkeypatch.delitem(sys.modules, f"stylert.core.provenance.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendError, match=r"stylert\[provenance\]"):
        Bundle.load(signed_bundle, trusted)
    with pytest.raises(BackendError, match=r"stylert\[provenance\]"):
        sign_bundle(signed_bundle)


def test_signing_again_replaces_the_signature(signed_bundle: Path, signing_folder: Path, trusted: Path) -> None:
    write_test_credential(signing_folder, replace=True)
    sign_bundle(signed_bundle)
    with pytest.raises(BundleError, match="vouches"):
        Bundle.load(signed_bundle, trusted)
    Bundle.load(signed_bundle, signing_folder / "certificates.pem")
