"""Reads the manifests of pictures and videos: whether each is signed and unchanged, by whom, and its recipe.

A process of its own reads them, and its end is a verdict here, since a native library parses what may be hostile.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylert.core.child_processes import python_command
from stylert.core.errors import BackendError, DataError, InputError, SigningError, as_path, missing_extra, shown, shown_line
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.core.provenance.credentials import MAX_PEM, TEST_ORGANIZATION, chosen_folder, default_folder, read_settings

MODULE = "stylert.core.provenance.reading_process"
#: Bytes of PEM that hold the authorities which a user trusts.
MAX_ANCHORS = 2**22

#: The reasons behind the codes of C2PA, for people.
REASONS = {
    "assertion.dataHash.mismatch": "its bytes were changed after it was signed",
    "assertion.bmffHash.mismatch": "its bytes were changed after it was signed",
    "assertion.boxesHash.mismatch": "its bytes were changed after it was signed",
    "assertion.hashedURI.mismatch": "the statements in its manifest were changed",
    "assertion.missing": "a statement of its manifest was removed",
    "claimSignature.mismatch": "its signature does not fit",
    "claimSignature.outsideValidity": "its certificate was not valid when it was signed, or has expired",
    "signingCredential.expired": "its certificate has expired, and no timestamp proves that it was signed before",
    "signingCredential.invalid": "its certificate is not one for signing pictures",
    "signingCredential.ocsp.revoked": "its certificate was revoked",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict on the manifest of one file.

    Attributes:
        state: `valid`: signed, and unchanged since. `invalid`: signed, but the signature does not hold. `unsigned`: without a
            manifest. `unreadable`: damaged, or of a kind without manifests. `missing`: no such file.
        trust: Of a signed file. `named`: the signer's certificate leads to an authority that the user named. `own`: it is that of
            this user. `unknown`: neither.
        signer: Name in the certificate of the signer. Anybody can write any name into a certificate.
        organization: Organization in that certificate.
        program: Name and version of the program that wrote the manifest.
        source: The kind of source that it states, such as `trainedAlgorithmicMedia`.
        recipe: The recipe in it, or None.
        problems: Codes of C2PA for what is wrong.
        reason: Why the file is invalid, unreadable or missing.
    """

    state: Literal["valid", "invalid", "unsigned", "unreadable", "missing"]
    trust: Literal["named", "own", "unknown"] = "unknown"
    signer: str = ""
    organization: str = ""
    program: str = ""
    source: str = ""
    recipe: str | None = None
    problems: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_test(self) -> bool:
        """Whether the certificate says that it is one for trying."""
        return self.organization == TEST_ORGANIZATION

    @property
    def why(self) -> str:
        """The reason for a state other than `valid`, for people."""
        return self.reason or "; ".join(REASONS.get(code, code) for code in self.problems)

    @property
    def summary(self) -> str:
        """The verdict in one line, for people."""
        if self.state == "unsigned":
            return "not signed" + (f": {self.reason}" if self.reason else "")
        if self.state != "valid":
            return f"not valid: {self.why}" if self.state == "invalid" else self.why
        kind = "a test certificate, which proves no identity" if self.is_test else ""
        trust = {"named": "an authority that you named vouches for it", "own": "it is yours", "unknown": ""}[self.trust]
        if not kind and not trust:
            trust = "no authority that you named vouches for it"
        remarks = "; ".join(filter(None, (kind, trust)))
        # In quotation marks, since the name may be any text, such as one that looks like a verdict.
        name = f'"{_unquoted(self.signer)}"' if self.signer else "a signer without a name"
        organization = f'"{_unquoted(self.organization)}"' if self.organization else "no organization"
        return f"valid, signed by {name} of {organization}: {remarks}"


def _unquoted(text: str) -> str:
    return text.replace('"', "'")


def can_verify() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("c2pa") is not None


def verify_files(paths: Sequence[Path], anchors: Path | None = None) -> list[Verdict]:
    """Verify the manifests of pictures and videos. Nothing is fetched from the network.

    Args:
        paths: The files.
        anchors: PEM file with the certificates of authorities that the user trusts, such as C2PA's trust list.

    Raises:
        InputError: The file of authorities cannot be read, or these are no paths.
        BackendError: The extra is not installed, or its library cannot be loaded.
    """
    if not isinstance(paths, Sequence) or isinstance(paths, str | bytes):
        raise InputError(f"the files to verify are a list of paths, not {shown(paths)}")
    paths = [as_path(path, "file") for path in paths]
    if not can_verify():
        raise missing_extra("c2pa-python", "provenance")
    trusted = None if anchors is None else _read_anchors(anchors)
    own = _own_certificates()
    verdicts: list[Verdict] = []
    while len(verdicts) < len(paths):  # a process that ends early ends at one file; another one reads those after it
        verdicts += _read([str(path) for path in paths[len(verdicts) :]], trusted, own)
    return verdicts


def _read(paths: list[str], anchors: str | None, own: str | None) -> list[Verdict]:
    """Verdicts of the first files, at least one: of all, or up to the one at which the process ended."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        python_command("-m", MODULE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        process_group=0,  # Ctrl-C reaches this process alone, which then ends the other
    ) as process:
        try:
            answers, errors = process.communicate(json.dumps({"paths": paths, "anchors": anchors, "own": own}).encode())
        except BaseException:
            process.kill()
            raise
    lines = answers.split(b"\n")[:-1]
    verdicts = [read_document(line, Verdict, "the answer of the reading process", DataError) for line in lines]
    if len(verdicts) < len(paths):
        verdicts.append(Verdict("unreadable", reason=_end_of(process.returncode, errors)))
    return verdicts


def _end_of(status: int, errors: bytes) -> str:
    """The reason for the end of a process before its last file.

    Raises:
        BackendError: The process never began to read, as under a limit of memory.
    """
    if status == -signal.SIGPROF:
        return "reading it took too long"
    if status < 0:
        return f"the library that reads it ended with {signal.Signals(-status).name}"
    last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
    raise BackendError(f"the process that reads manifests ended with status {status}: {shown_line(last_line)}")


def _read_anchors(file: Path) -> str:
    from stylert.core.provenance.certificates import certificates_text

    content = read_file(file, InputError, MAX_ANCHORS, "certificate file")
    try:
        return certificates_text(content, limit=None)
    except InputError as e:
        raise InputError(f"{file}: {e}") from None


def _own_certificates() -> str | None:
    """The user's own chain, or None without a readable one: verification goes on without it. It may be switched off."""
    from stylert.core.provenance.certificates import certificates_text

    try:
        folder = chosen_folder() or default_folder()
        return certificates_text(
            read_file(folder / read_settings(folder).certificates, InputError, MAX_PEM, "certificate file")
        )
    except (InputError, SigningError):
        return None
