"""Signs pictures and videos: each gets a C2PA manifest that says what made it.

The manifest states by the action `c2pa.created` that a trained model made the file, or changed a photograph in it. It names stylert and its
version, and holds the recipe in an assertion of its own:

    io.github.stylert.recipe    {"schema": 1, "bundle": sha256 of bundle.json, "recipe": the comment of the file as text}

The recipe is text, since a recipe is read back by its own reader, which refuses what it does not know.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import shutil
import tempfile
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from stylert.core.errors import InputError, OutputError, SigningError, missing_extra, shown_line
from stylert.core.files.json_documents import read_document
from stylert.core.provenance.credentials import ADVICE, PURPOSES, SWITCH, Credential, chosen_folder, file_state, read_credential
from stylert.core.provenance.media_types import MEDIA_TYPES

RECIPE_LABEL = "io.github.stylert.recipe"
RECIPE_SCHEMA = 1
#: Name of the program in a manifest.
GENERATOR = "stylert"
#: Term of the IPTC for what a trained model made.
TRAINED_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
#: The same for a photograph that a trained model changed.
EDITED_BY_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
#: Keys of a comment by which a file says that a model made it, or changed a photograph.
GENERATED, EDITED = "AI-generated", "AI-edited"

#: Extended key usages of signers, of timestamp servers and of lists of revoked certificates. By itself the library takes fewer.
ACCEPTED_PURPOSES = (*PURPOSES, "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9")

#: Thumbnails would repeat the picture. A file is not read again after signing: the tests do that.
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}, "actions": {"auto_created_action": {"enabled": False}}},
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


class Signer:
    """Signs files with one credential. Threads may share it; the children of a process may not.

    Args:
        credential: The chain and key.

    Raises:
        BackendError: The extra is not installed.
        SigningError: The library refuses the credential.
    """

    def __init__(self, credential: Credential) -> None:
        c2pa = _import_c2pa()
        self.chain = credential.chain
        self._files = credential.files
        self.certificates_sha256 = hashlib.sha256(credential.certificates).hexdigest()
        server = credential.timestamp_server
        self._has_server = server is not None
        try:
            info = c2pa.C2paSignerInfo(
                self.chain.algorithm, credential.certificates, credential.key, server.encode() if server else None
            )
            self._context = c2pa.Context.from_dict(_SETTINGS, c2pa.Signer.from_info(info))
        except c2pa.C2paError as e:
            raise SigningError(f"pictures cannot be signed: {shown_line(str(e))}; {ADVICE}") from None
        self._c2pa = c2pa

    @property
    def is_current(self) -> bool:
        """Whether the chain has not expired, and its files are still as they were read."""
        is_valid = datetime.datetime.now(datetime.UTC) <= self.chain.not_after
        return is_valid and all(file_state(file) == state for file, state in self._files.items())

    def sign(self, source: BinaryIO, destination: BinaryIO, suffix: str, comment: str | None) -> None:
        """Copy a picture or video, with its manifest.

        Args:
            source: The file.
            destination: The signed file, open for reading and writing.
            suffix: The suffix of the file, a key of `MEDIA_TYPES`.
            comment: The recipe as in the file's comment; None for a picture without one.

        Raises:
            OutputError: The file cannot be signed or written.
        """
        if (problem := self.problem(source, destination, suffix, comment)) is not None:
            raise OutputError(f"the file cannot be signed: {problem}; --no-sign leaves the signature out")

    def problem(self, source: BinaryIO, destination: BinaryIO, suffix: str, comment: str | None) -> str | None:
        """As `sign`. Returns why the file cannot be signed, in one line, or None if it is."""
        builder = self._c2pa.Builder(_manifest(comment), self._context)
        try:
            builder.sign(MEDIA_TYPES[suffix], source, destination)
        except self._c2pa.C2paError as e:
            return f"{'the timestamp server gives no timestamp: ' if self._has_server else ''}{shown_line(str(e))}"
        finally:
            builder.close()
        return None


def active_signer() -> Signer | None:
    """The signer of this process, or None if files are not signed.

    It is found once for each process and setting of the environment, and again when its chain has expired or one of its files has
    changed. So a server follows `stylert provenance init` and `remove`.

    Raises:
        SigningError: There is a credential, and it cannot sign.
        BackendError: There is a credential, and the extra is not installed.
    """
    settings = (os.getpid(), *(os.environ.get(name) for name in (SWITCH, "XDG_CONFIG_HOME", "HOME")))
    signer = _find_signer(settings)
    if chosen_folder() is not None if signer is None else not signer.is_current:
        forget_signer()
        signer = _find_signer(settings)
    return signer


def active_signer_sha256() -> str | None:
    """The sha256 of the certificates of `active_signer`, or None if files are not signed. Raises as that one."""
    signer = active_signer()
    return None if signer is None else signer.certificates_sha256


def forget_signer() -> None:
    """Let `active_signer` look again, after a credential was written or removed."""
    _find_signer.cache_clear()


def check_signs(credential: Credential) -> None:
    """Sign a small picture with a credential, and read it back.

    Raises:
        SigningError: The library refuses the credential or the signature of the picture, or the timestamp server does not answer.
        BackendError: The extra is not installed.
    """
    from PIL import Image

    c2pa, picture, destination = _import_c2pa(), BytesIO(), BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    picture.seek(0)
    if (problem := Signer(credential).problem(picture, destination, ".png", None)) is not None:
        raise SigningError(f"a picture cannot be signed: {problem}")
    destination.seek(0)
    with c2pa.Reader("image/png", destination, context=offline_context(c2pa)) as reader:
        if reader.get_validation_state() == "Invalid":
            failures = reader.get_validation_results()["activeManifest"]["failure"]
            codes = ", ".join(str(failure.get("code")) for failure in failures)
            raise SigningError(f"validators would refuse the signature: {shown_line(codes)}")


def offline_context(c2pa: Any, anchors: str | None = None) -> Any:
    """A context of the library for reading manifests, without the network.

    Args:
        c2pa: The library.
        anchors: PEM of the authorities that are trusted.
    """
    trust = {"trust_config": "\n".join(ACCEPTED_PURPOSES), **({} if anchors is None else {"user_anchors": anchors})}
    return c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}, "trust": trust})


def signed(data: bytes, suffix: str, comment: str | None) -> bytes:
    """A picture file with its manifest. Without a signer, or for a format without manifests, the file as it is.

    Args:
        data: The file.
        suffix: Its suffix in lower case.
        comment: As in `Signer.sign`.

    Raises:
        StylertError: As `active_signer` and `Signer.sign`.
    """
    signer = active_signer() if suffix in MEDIA_TYPES else None
    if signer is None:
        return data
    destination = BytesIO()
    signer.sign(BytesIO(data), destination, suffix, comment)
    return destination.getvalue()


def sign_in_place(path: Path, suffix: str, comment: str | None) -> None:
    """The same for a file that nobody reads yet, such as the unfinished one of `atomic_file`. It keeps its place on the disk.

    Raises:
        StylertError: As `active_signer` and `Signer.sign`.
        OSError: The disk is full.
    """
    signer = active_signer() if suffix in MEDIA_TYPES else None
    if signer is None:
        return
    with tempfile.TemporaryFile(dir=path.parent) as unsigned, open(path, "r+b") as file:
        shutil.copyfileobj(file, unsigned)
        unsigned.seek(0)
        file.seek(0)
        file.truncate()
        signer.sign(unsigned, file, suffix, comment)


def says_generated(comment: str | None) -> bool:
    """Whether the comment of a file is a recipe, or other facts that say that a model made the file or changed a photograph."""
    return comment is not None and any(_facts(comment).get(key) is True for key in (GENERATED, EDITED))


def source_type(comment: str | None) -> str:
    """The term of the IPTC for a file with this comment: `EDITED_BY_MODEL` where the comment says so, else `TRAINED_MODEL`."""
    return EDITED_BY_MODEL if comment is not None and _facts(comment).get(EDITED) is True else TRAINED_MODEL


@functools.lru_cache(maxsize=1)
def _find_signer(settings: tuple[object, ...]) -> Signer | None:
    """The signer by the environment, of which `settings` are all that it depends on."""
    folder = chosen_folder()
    return None if folder is None else Signer(read_credential(folder))


def _manifest(comment: str | None) -> dict[str, Any]:
    """The manifest as the library takes it."""
    program = {"name": GENERATOR, "version": _version()}
    created = {"action": "c2pa.created", "digitalSourceType": source_type(comment), "softwareAgent": program}
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]
    if comment is not None:
        bundle = _facts(comment).get("bundle")
        data = {"schema": RECIPE_SCHEMA, **({"bundle": bundle} if isinstance(bundle, str) else {}), "recipe": comment}
        assertions.append({"label": RECIPE_LABEL, "data": data, "created": True})
    return {"claim_generator_info": [program], "assertions": assertions}


def _facts(comment: str) -> dict[str, Any]:
    """The object in a comment that is JSON. Another comment has none."""
    try:
        return read_document(comment, dict[str, Any], "the comment", InputError)
    except InputError:
        return {}


@functools.cache
def _version() -> str:
    return version("stylert")


def _import_c2pa() -> Any:
    try:
        import c2pa
    except ImportError:
        raise missing_extra("c2pa-python", "provenance") from None
    return c2pa
