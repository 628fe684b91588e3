"""The signing credential of a user: a certificate chain and a private key, in a folder of the user's settings.

    ~/.config/stylert/provenance/    readable by its owner alone
      signing.json                   where the two files are, and the timestamp server if there is one
      certificates.pem  key.pem      of a chain for trying; files of the user stay where they are

The environment variable `STYLERT_SIGN` names another folder. With `off` nothing is signed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from stylert.core.errors import InputError, OutputError, SigningError, as_path, shown
from stylert.core.files.atomic import atomic_directory
from stylert.core.files.configuration import configuration_folder
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.core.files.locks import locked_folder
from stylert.core.files.outputs import is_within

if TYPE_CHECKING:
    from stylert.core.provenance.certificates import CheckedChain

#: Names a folder with a credential, or is `off`.
SWITCH = "STYLERT_SIGN"
OFF = ("off", "0", "no")

#: Extended key usages by which validators accept a signer.
CLAIM_SIGNING, EMAIL_PROTECTION, DOCUMENT_SIGNING = "1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.36"
PURPOSES = (CLAIM_SIGNING, EMAIL_PROTECTION, DOCUMENT_SIGNING)
#: Organization in the certificates of a chain for trying.
TEST_ORGANIZATION = "stylert test certificate"

SETTINGS_FILE, CERTIFICATES_FILE, KEY_FILE = "signing.json", "certificates.pem", "key.pem"
VERSION = 1
#: Bytes of a file with certificates or a key.
MAX_PEM = 2**17
ADVICE = "see `stylert provenance status`, or leave signatures out with --no-sign"


@dataclass(frozen=True)
class Credential:
    """A chain and key that fit each other and can sign now. Printing it shows no key.

    Attributes:
        certificates: The chain as PEM, the certificate of the signer first.
        key: The private key as PEM.
        chain: The facts of the chain.
        timestamp_server: Address of the server that signs the time of each signature, or None.
        files: The files from which it was read, each with its `file_state` before that.
    """

    certificates: bytes = field(repr=False)
    key: bytes = field(repr=False)
    chain: CheckedChain
    timestamp_server: str | None = None
    files: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class SigningSettings:
    """The content of `signing.json`. Paths may be relative to its folder.

    Attributes:
        version: Version of the document.
        certificates: File with the chain.
        key: File with the private key.
        timestamp_server: As in `Credential`.
        sha256: Hash of each file beside the document that stylert wrote, by its name.
    """

    version: int
    certificates: str
    key: str
    timestamp_server: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"its version is {self.version}; this stylert reads version {VERSION}")
        if self.timestamp_server is not None and not str(self.timestamp_server).startswith(("http://", "https://")):
            raise ValueError(f"a timestamp server is an address that begins with http, not {shown(self.timestamp_server)}")


def default_folder() -> Path:
    """The folder of the credential, unless `SWITCH` names another. Raises InputError if the home folder is not known."""
    return configuration_folder() / "provenance"


def chosen_folder() -> Path | None:
    """The folder of the credential that signs in this process, or None if there is none or signatures are off.

    Raises:
        SigningError: `SWITCH` names a folder by a relative path, or one without a credential. Or nobody can tell whether there is
            one, because this user may not look into the folder.
    """
    switch = os.environ.get(SWITCH) or None
    if switch in OFF:
        return None
    if switch is not None:
        folder = Path(switch)
        if not folder.is_absolute() or not _has_settings(folder):
            raise SigningError(f"{SWITCH} is `off`, or the whole path of a folder with {SETTINGS_FILE}, not {shown(switch)}")
        return folder
    try:
        folder = default_folder()
    except InputError:  # without a home folder there is no credential
        return None
    return folder if _has_settings(folder) else None


def _has_settings(folder: Path) -> bool:
    """Whether a folder has a credential. Raises SigningError if this user may not look into it."""
    try:
        return (folder / SETTINGS_FILE).exists()
    except OSError as e:
        # After `sudo -u`, this is the folder of another user. Pictures without a signature would be a silent loss.
        raise SigningError(
            f"{folder} may hold the key that signs pictures, and cannot be read: {e.strerror}; let this user read it with chmod, "
            "set HOME to a folder of this user, or leave signatures out with --no-sign"
        ) from None


def read_credential(folder: Path) -> Credential:
    """Read and check the credential in a folder.

    Raises:
        SigningError: A file is missing or damaged, other users may read the key or write into the folder, or the chain and key
            cannot sign now.
        BackendError: The extra is not installed.
    """
    try:
        settings = read_settings(folder)
        if os.stat(folder).st_mode & stat.S_IWOTH:
            raise InputError(f"every user of this machine may put another key into {folder}: chmod 700 {folder}")
        certificates, key = folder / settings.certificates, folder / settings.key
        states = {file: file_state(file) for file in (folder / SETTINGS_FILE, certificates, key)}
        return replace_fields(user_credential(certificates, key, settings.timestamp_server), files=states)
    except InputError as e:
        raise SigningError(f"pictures cannot be signed: {e}; {ADVICE}") from None


def file_state(file: Path) -> tuple[int, ...]:
    """Numbers that change when a file is replaced, written, or opened to others. Empty for a file that is gone."""
    try:
        state = os.stat(file)
    except OSError:
        return ()
    return state.st_ino, state.st_mtime_ns, state.st_size, state.st_mode


def read_settings(folder: Path) -> SigningSettings:
    """The settings in a folder. Raises InputError if they are missing or damaged."""
    file = as_path(folder, "credential") / SETTINGS_FILE
    return read_document(read_file(file, InputError, MAX_PEM), SigningSettings, str(file), InputError)


def new_test_credential(timestamp_server: str | None = None) -> Credential:
    """A new chain for trying, with its key.

    Raises:
        InputError: The timestamp server is no address.
        BackendError: The extra is not installed.
    """
    from stylert.core.provenance.certificates import check_chain, make_test_chain

    certificates, key = make_test_chain()
    _settings(CERTIFICATES_FILE, KEY_FILE, timestamp_server)
    return Credential(certificates, key, check_chain(certificates, key), timestamp_server)


def write_test_credential(folder: Path, replace: bool = False, credential: Credential | None = None) -> Credential:
    """Write a chain for trying with its key into a folder. Each file is readable by its owner alone.

    Args:
        folder: The folder; it is made.
        replace: Whether a credential that is there may be lost.
        credential: The credential; by default a new one.

    Raises:
        InputError: The folder is no path, or `replace` is no flag.
        OutputError: The folder cannot be written, or there is a credential that may not be replaced.
        BackendError: The extra is not installed.
    """
    folder = as_path(folder, "folder")
    if not isinstance(replace, bool):
        raise InputError(f"replace is true or false, not {shown(replace)}")
    credential = credential or new_test_credential()
    settings = _settings(CERTIFICATES_FILE, KEY_FILE, credential.timestamp_server)
    _write(folder, settings, {CERTIFICATES_FILE: credential.certificates, KEY_FILE: credential.key}, replace)
    return credential


def user_credential(certificates: Path, key: Path, timestamp_server: str | None = None) -> Credential:
    """Read and check a user's chain and key.

    Args:
        certificates: PEM file of the chain.
        key: PEM file of the private key.
        timestamp_server: As in `Credential`.

    Raises:
        InputError: The chain and key cannot sign now, or other users may read the key.
        BackendError: The extra is not installed.
    """
    from stylert.core.provenance.certificates import check_chain

    chain_pem = read_file(certificates, InputError, MAX_PEM, "certificate file")
    key_pem = _read_private(key)
    return Credential(chain_pem, key_pem, check_chain(chain_pem, key_pem), timestamp_server)


def write_user_credential(
    folder: Path, certificates: Path, key: Path, replace: bool = False, timestamp_server: str | None = None
) -> None:
    """Write the places of a user's chain and key into a folder. The files themselves stay where they are.

    Args:
        folder: The folder; it is made.
        certificates: PEM file of the chain.
        key: PEM file of the private key.
        replace: As in `write_test_credential`.
        timestamp_server: As in `Credential`.

    Raises:
        InputError: The timestamp server is no address.
        OutputError: As `write_test_credential`, or a file lies in the folder, which is replaced as a whole.
    """
    for file in (certificates, key):
        if is_within(file, folder):
            raise OutputError(f"{file} lies in {folder}, whose files are replaced: move it to another folder first")
    _write(folder, _settings(os.path.abspath(certificates), os.path.abspath(key), timestamp_server), {}, replace)


def remove_credential(folder: Path) -> list[Path]:
    """Remove the files of a credential that stylert wrote. A user's own files stay where they are.

    Returns:
        The files that were removed.

    Raises:
        InputError: The folder is no path.
        OutputError: A file cannot be removed.
    """
    folder, removed = as_path(folder, "folder"), []
    try:
        for name in reversed(_own_files(folder)):  # the settings last: after a kill in between, the rest is still known as ours
            if (folder / name).exists():
                (folder / name).unlink()
                removed.append(folder / name)
        if removed and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as e:
        raise OutputError(f"cannot remove {e.filename}: {e.strerror or e}") from None
    return removed


def _settings(certificates: str, key: str, timestamp_server: str | None) -> SigningSettings:
    try:
        return SigningSettings(VERSION, certificates, key, timestamp_server)
    except ValueError as e:
        raise InputError(str(e)) from None


def _read_private(path: Path) -> bytes:
    """The content of a file with a key. Raises InputError if every user of the machine may read or write it."""
    content = read_file(path, InputError, MAX_PEM, "key file")
    if os.stat(path).st_mode & stat.S_IRWXO:
        raise InputError(f"key file {path} is open to every user of this machine: chmod 600 {path}")
    return content


def check_vacant(folder: Path, replace: bool) -> None:
    """Raise OutputError if a folder has a credential that may not be replaced, or if nobody can tell."""
    try:
        has_settings = (folder / SETTINGS_FILE).exists()
    except OSError as e:
        raise OutputError(f"cannot write {folder}: {e.strerror or e}") from None
    if has_settings and not replace:
        raise OutputError(f"{folder} has a key already; with --replace it is lost, and new pictures have another signer")


def _write(folder: Path, settings: SigningSettings, files: dict[str, bytes], replace: bool) -> None:
    settings = replace_fields(settings, sha256={name: sha256(content).hexdigest() for name, content in files.items()})
    with locked_folder(folder):  # of two processes, one finds the key of the other
        check_vacant(folder, replace)
        with atomic_directory(folder, _own_files) as temporary:
            temporary.chmod(stat.S_IRWXU)
            for name, content in {SETTINGS_FILE: _document(settings), **files}.items():
                with open(temporary / name, "xb", opener=_open_private) as file:
                    file.write(content)


def _own_files(folder: Path) -> list[str]:
    """The names of the files in a folder that stylert wrote and nobody has changed. A user may have put a key in place of ours."""
    if not (folder / SETTINGS_FILE).exists():
        return []
    own = [SETTINGS_FILE]
    with suppress(InputError):
        for name, digest in read_settings(folder).sha256.items():
            with suppress(InputError):
                if (
                    name in (CERTIFICATES_FILE, KEY_FILE)
                    and sha256(read_file(folder / name, InputError, MAX_PEM)).hexdigest() == digest
                ):
                    own.append(name)
    return own


def _document(settings: SigningSettings) -> bytes:
    facts = {
        "version": settings.version,
        "certificates": settings.certificates,
        "key": settings.key,
        "timestamp_server": settings.timestamp_server,
        "sha256": settings.sha256,
    }
    return (json.dumps(facts, indent=2) + "\n").encode()


def _open_private(path: str, flags: int) -> int:
    """Open a new file that its owner alone may read, whatever the umask says."""
    return os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
