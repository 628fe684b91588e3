"""The process that reads manifests for `verification`: `python -m stylert.core.provenance.reading_process`.

A file with a manifest may be hostile, and a native library parses it. So this process is short of memory and of processor time on
purpose, and never uses the network. It reads one JSON document from standard input and writes a line of JSON for each file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

from stylert.core.child_processes import end_with_parent, limit_cpu_time, limit_memory
from stylert.core.errors import InputError
from stylert.core.files.inputs import open_file, stored_bytes
from stylert.core.provenance.media_types import HEAD_BYTES, media_type_of
from stylert.core.provenance.signing import RECIPE_LABEL, RECIPE_SCHEMA, offline_context

#: Bytes that this process may allocate.
MAX_MEMORY = 2**30
#: Seconds of the processor for one file, and bytes on the disk that take one more: a video of some GiB is hashed as a whole. A file
#: of holes costs its sender nothing, so holes give no time.
SECONDS, BYTES_PER_SECOND = 10.0, 50 * 2**20
MAX_FILE = 2**40
#: Characters of a recipe, as in a comment, and of any other text from a manifest.
MAX_RECIPE, MAX_TEXT = 60_000, 200
MAX_PROBLEMS = 20

#: Problems that concern the trust in a signer, not the file.
OF_TRUST = {"signingCredential.untrusted", "signingCredential.ocsp.skipped"}


def main() -> None:
    """Read a request of `verification` from standard input, and write a verdict for each of its files to standard output."""
    end_with_parent()
    limit_memory(MAX_MEMORY)
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # a library that prints does not print into the pipe
        request = json.load(sys.stdin)
        reader = _ManifestReader(request["anchors"], request["own"])
        for path in request["paths"]:
            answers.write(json.dumps(reader.verdict(Path(path))) + "\n")
            answers.flush()


class _ManifestReader:
    """Reads manifests with two sets of trusted authorities: those that the user names, and the user's own chain."""

    def __init__(self, anchors: str | None, own: str | None) -> None:
        import c2pa

        self.c2pa = c2pa
        self.has_anchors = anchors is not None
        self.context = offline_context(c2pa, anchors)
        self.own_context = None if own is None else offline_context(c2pa, own)

    def verdict(self, path: Path) -> dict[str, Any]:
        """The fields of `verification.Verdict` of one file."""
        try:
            with open_file(path, InputError, MAX_FILE, "picture") as file:
                limit_cpu_time(SECONDS + stored_bytes(file) / BYTES_PER_SECOND)
                media_type = media_type_of(file.read(HEAD_BYTES))
                if media_type is None:
                    return {"state": "unreadable", "reason": "it is no PNG, JPEG, WebP, GIF or MP4 file"}
                return self._read(media_type, file)
        except InputError as e:
            return {"state": "missing", "reason": _valid_unicode(str(e))}
        except OSError as e:
            return {"state": "unreadable", "reason": f"it cannot be read: {e.strerror or e}"}
        except MemoryError:
            return {"state": "unreadable", "reason": f"it needs more than {MAX_MEMORY // 2**20} MiB of memory"}

    def _read(self, media_type: str, file: BinaryIO) -> dict[str, Any]:
        try:
            report, state = self._report(media_type, file, self.context)
        except self.c2pa.C2paError.ManifestNotFound:
            return {"state": "unsigned"}
        except self.c2pa.C2paError as e:
            if str(e).startswith("Remote"):
                return {"state": "unsigned", "reason": "it names a manifest on a server, which is not fetched"}
            return {"state": "unreadable", "reason": f"it is damaged: {_text(str(e).removeprefix('Other: '))}"}
        manifest = (report.get("manifests") or {}).get(report.get("active_manifest"))
        if manifest is None:  # a damaged file may name a manifest that it does not hold
            return {"state": "unreadable", "reason": "its manifest is damaged"}
        problems = _problems(report)
        is_own = not problems and self.own_context is not None and self._is_trusted(media_type, file, self.own_context)
        return {
            "state": "invalid" if problems or state == "Invalid" else "valid",
            "trust": "named" if state == "Trusted" else "own" if is_own else "unknown",
            "problems": problems[:MAX_PROBLEMS],
            **_statements(manifest),
        }

    def _report(self, media_type: str, file: BinaryIO, context: Any) -> tuple[dict[str, Any], str]:
        """The library's report on a file, and its state: Trusted, Valid or Invalid."""
        file.seek(0)
        with self.c2pa.Reader(media_type, file, context=context) as reader:
            return json.loads(reader.json()), str(reader.get_validation_state())

    def _is_trusted(self, media_type: str, file: BinaryIO, context: Any) -> bool:
        return self._report(media_type, file, context)[1] == "Trusted"


def _problems(report: dict[str, Any]) -> list[str]:
    """The codes of all failures, but those of trust."""
    results = report.get("validation_results") or {}
    deltas = [delta.get("validationDeltas") or {} for delta in results.get("ingredientDeltas") or []]
    parts = [results.get("activeManifest") or {}, *deltas]
    codes = [_text(failure.get("code")) for part in parts for failure in part.get("failure") or []]
    return list(dict.fromkeys(code for code in codes if code not in OF_TRUST))


def _statements(manifest: dict[str, Any]) -> dict[str, Any]:
    """The statements of a manifest: its signer, the program that made the file, and the recipe."""
    signature = manifest.get("signature_info") or {}
    program = (manifest.get("claim_generator_info") or [{}])[0]
    assertions = {assertion.get("label"): assertion.get("data") for assertion in manifest.get("assertions") or []}
    actions = [
        action
        for label, data in assertions.items()
        if str(label).startswith("c2pa.actions") and isinstance(data, dict)
        for action in data.get("actions") or []
        if isinstance(action, dict)
    ]
    sources = [str(action.get("digitalSourceType")) for action in actions if action.get("action") == "c2pa.created"]
    return {
        "signer": _text(signature.get("common_name")),
        "organization": _text(signature.get("issuer")),
        "program": _text(f"{program.get('name') or ''} {program.get('version') or ''}".strip()),
        "source": _text(sources[0].rpartition("/")[2]) if sources else "",
        "recipe": _recipe(assertions.get(RECIPE_LABEL)),
    }


def _recipe(assertion: object) -> str | None:
    """The recipe in its assertion, or None if it is of another schema or too long."""
    if not isinstance(assertion, dict) or assertion.get("schema") != RECIPE_SCHEMA:
        return None
    recipe = assertion.get("recipe")
    return recipe if isinstance(recipe, str) and len(recipe) <= MAX_RECIPE else None


def _valid_unicode(text: str) -> str:
    """A text whose file names may hold bytes that are no UTF-8: each becomes a replacement character, as JSON has no such bytes."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _text(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())[:MAX_TEXT]


if __name__ == "__main__":
    main()
