"""The signature of a bundle: a file beside `bundle.json` by which others can tell that nobody changed the bundle.

`bundle.json` holds the sha256 of every network. `engine.json` of an engine holds those of its files, and the signature lists each
`engine.json`. So one signature covers all. An engine that is built later is not covered until the bundle is signed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stylert.core.errors import BundleError, InputError, SigningError, StylertError
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.core.files.locks import changing_folder
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.engines import ENGINE_JSON

SIGNATURE_FILE = "bundle.signature.json"
KIND = "stylert bundle"
SCHEMA = 1
#: Bytes of the signature file, and of a file with trusted certificates.
MAX_SIGNATURE = 2**22


@dataclass(frozen=True)
class BundleStatement:
    """The text that is signed.

    Attributes:
        kind: `KIND`, so that no other signed text passes for it.
        schema: Version of the text.
        manifest: The sha256 of `bundle.json`.
        engines: The sha256 of each `engine.json`, by the name of the engine's folder.
    """

    kind: str
    schema: int
    manifest: str
    engines: dict[str, str] = field(default_factory=dict)


def sign_bundle(path: str | Path) -> str:
    """Sign a bundle with the credential of this user, after comparing all its files with `bundle.json`.

    Returns:
        The name of the signer.

    Raises:
        BundleError: A file of the bundle is missing or damaged.
        SigningError: There is no credential, or it cannot sign.
        OutputError: The signature cannot be written.
        BackendError: The extra is not installed.
    """
    from stylert.core.provenance.credentials import chosen_folder, read_credential
    from stylert.core.provenance.statements import sign_statement

    place = chosen_folder()
    if place is None:
        raise SigningError("there is no key to sign with: stylert provenance init")
    credential = read_credential(place)
    folder = Bundle.load(path).path
    with changing_folder(folder):  # what is signed is what was compared, and lies beside the signature
        bundle = Bundle.load(folder)
        for name in bundle.files:
            bundle.checked_file(name)
        manifest = _read(folder / MANIFEST)
        engines = {file.parent.name: _digest(_read(file)) for file in sorted(folder.glob(f"engines/*/{ENGINE_JSON}"))}
        text = json.dumps({"kind": KIND, "schema": SCHEMA, "manifest": _digest(manifest), "engines": engines})
        signed = sign_statement(credential, text)
        document = {"statement": signed.statement, "certificates": signed.certificates, "signature": signed.signature}
        with atomic_file(folder / SIGNATURE_FILE, within=folder) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return credential.chain.signer


def check_bundle_signature(path: Path, manifest: bytes, trusted: str | Path) -> Mapping[str, str]:
    """Check the signature of a bundle.

    Args:
        path: The bundle's folder.
        manifest: The content of its `bundle.json`.
        trusted: PEM file with the certificates of signers, or of authorities that vouch for them.

    Returns:
        The sha256 of each `engine.json` that the signature covers, by the name of the engine's folder.

    Raises:
        BundleError: The bundle is not signed, the signature does not hold, or its signer is not trusted.
        InputError: The file of certificates cannot be read.
        BackendError: The extra is not installed.
    """
    from stylert.core.provenance.certificates import read_certificates
    from stylert.core.provenance.statements import SignedStatement, check_statement

    anchors = read_file(trusted, InputError, MAX_SIGNATURE, "certificate file")
    try:
        read_certificates(anchors, limit=None)
    except InputError as e:
        raise InputError(f"{trusted}: {e}") from None
    file = path / SIGNATURE_FILE
    if not file.exists():
        raise BundleError(
            f"bundle {path} is not signed, and a signature is required; its maker signs it with: "
            f"stylert provenance sign-bundle {path}"
        )
    signed = read_document(_read(file), SignedStatement, str(file), BundleError)
    try:
        check_statement(signed, anchors)
        statement = read_document(signed.statement, BundleStatement, "its statement", InputError)
        if (statement.kind, statement.schema) != (KIND, SCHEMA):
            raise InputError("it signs something else than a bundle of this version")
        if statement.manifest != _digest(manifest):
            raise InputError(f"{MANIFEST} was changed after it was signed")
    except StylertError as e:
        raise BundleError(f"the signature of bundle {path} is refused: {e}") from None
    return statement.engines


def covers_engine(engines: Mapping[str, str] | None, folder: Path) -> bool:
    """Whether an engine may be loaded: no signature is required (None), or it covers the engine's `engine.json`."""
    return engines is None or engines.get(folder.name) == _digest(_read(folder / ENGINE_JSON))


def _read(file: Path) -> bytes:
    return read_file(file, BundleError, MAX_SIGNATURE)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
