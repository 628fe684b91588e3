"""Hostile files end in a verdict of one line, with bounded memory and time, and nothing is fetched from the network."""

from __future__ import annotations

import http.server
import io
import json
import random
import socketserver
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.child_processes import python_command
from stylert.core.errors import BackendError, InputError
from stylert.core.provenance import reading_process, verification
from stylert.core.provenance.credentials import write_test_credential
from stylert.core.provenance.signing import signed
from stylert.core.provenance.verification import Verdict, verify_files
from stylert.runtime.media.pictures import encoded_image
from stylert.runtime.media.video import write_video
from tests.core.provenance.certificate_chains import make_chain
from tests.draws import run_seed

RECIPE = json.dumps({"AI-generated": True, "command": "generate", "psi": [0.7]})


@pytest.fixture
def picture(signing_folder: Path, tmp_path: Path) -> Path:
    """A signed picture."""
    path = tmp_path / "picture.png"
    path.write_bytes(signed_png())
    return path


def signed_png() -> bytes:
    return signed(encoded_image(np.zeros((16, 16, 3), np.uint8), ".png"), ".png", RECIPE)


def verdict_of(path: Path, anchors: Path | None = None) -> Verdict:
    (verdict,) = verify_files([path], anchors)
    assert "\n" not in verdict.summary
    assert len(verdict.summary) < 600
    return verdict


def test_a_signed_picture_is_valid_and_of_this_user(picture: Path) -> None:
    verdict = verdict_of(picture)
    assert (verdict.state, verdict.trust, verdict.is_test) == ("valid", "own", True)
    assert verdict.recipe == RECIPE
    assert verdict.source == "trainedAlgorithmicMedia"
    assert verdict.program.startswith("stylert ")
    assert "test certificate" in verdict.summary
    assert "yours" in verdict.summary


def test_a_signer_is_trusted_by_the_authority_that_is_named(picture: Path, tmp_path: Path) -> None:
    assert verdict_of(picture, tmp_path / "certificates.pem").trust == "named"
    other = tmp_path / "other.pem"
    other.write_bytes(make_chain().pem)
    assert verdict_of(picture, other).trust == "own"
    other.write_bytes("Behörde\n".encode("latin-1") + (tmp_path / "certificates.pem").read_bytes())
    assert verdict_of(picture, other).trust == "named"


def test_after_a_change_of_keys_an_older_picture_is_valid_and_no_longer_of_this_user(
    picture: Path, signing_folder: Path
) -> None:
    write_test_credential(signing_folder, replace=True)
    assert (verdict_of(picture).state, verdict_of(picture).trust) == ("valid", "unknown")


def test_the_own_key_is_known_where_signatures_are_off(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLERT_SIGN", "off")
    assert verdict_of(picture).trust == "own"


def test_a_changed_picture_is_not_valid(picture: Path) -> None:
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    verdict = verdict_of(picture)
    assert (verdict.state, verdict.trust) == ("invalid", "unknown")
    assert "changed after it was signed" in verdict.summary


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"", "unreadable"),
        (b"text", "unreadable"),
        (b"\x89PNG\r\n\x1a\n", "unreadable"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "unreadable"),
        (b"\xff\xd8\xff\xe0", "unsigned"),
        (b"GIF89a", "unreadable"),
        (b"RIFF\xff\xff\xff\xffWEBP", "unreadable"),
        (b"\0\0\0\x14ftypisom\0\0\0\0isom", "unsigned"),
        (b"%PDF-1.7", "unreadable"),
    ],
)
def test_a_file_that_is_no_signed_picture_gets_a_verdict(content: bytes, state: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    verdict = verdict_of(path)
    assert verdict.state in (state, "unsigned", "unreadable")
    if verdict.state == "unreadable":
        assert verdict.summary.startswith(("it is damaged: ", "it is no PNG"))


def test_missing_files_folders_and_devices_get_a_verdict(tmp_path: Path) -> None:
    verdicts = verify_files([tmp_path / "none.png", tmp_path, Path("/dev/zero")])
    assert [verdict.state for verdict in verdicts] == ["missing"] * 3
    assert [verdict.why.split(" ", 2)[2] for verdict in verdicts] == [
        "does not exist",
        "is a folder, not a file",
        "is not a regular file",
    ]


def test_names_of_files_may_hold_anything(picture: Path, tmp_path: Path) -> None:
    names = ["two\nlines.png", "ünï.png", "\udcff.png", "--help.png"]
    for name in names:
        (tmp_path / name).write_bytes(picture.read_bytes())
    assert [v.state for v in verify_files([tmp_path / name for name in names])] == ["valid"] * 4


def test_a_missing_file_may_have_any_name(picture: Path, tmp_path: Path) -> None:
    missing, valid = verify_files([tmp_path / "caf\udce9.png", picture])
    assert (missing.state, valid.state) == ("missing", "valid")
    assert "caf\ufffd.png does not exist" in missing.why


def test_holes_give_no_time(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a hard disk may take hours to hash. One of holes takes its sender nothing, and may take this process a moment."""
    with open(picture, "r+b") as file:
        file.truncate(2**37)
    (tmp_path / "hasty_process.py").write_text(
        "from stylert.core.provenance import reading_process\nreading_process.SECONDS = 0.5\nreading_process.main()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(verification, "MODULE", "hasty_process")
    assert "reading it took too long" in verdict_of(picture).why


def test_the_reading_process_ends_with_the_one_that_started_it(picture: Path, tmp_path: Path) -> None:
    """Killed, the command cannot end it. Linux does."""
    with open(picture, "r+b") as file:
        file.truncate(2**37)
    program = (
        "import os, subprocess, sys, threading\n"
        "from pathlib import Path\n"
        "from stylert.core.provenance import verification\n"
        "class Announced(subprocess.Popen):\n"
        "    def communicate(self, *arguments):\n"
        "        self.stdin.write(arguments[0]); self.stdin.close(); print(self.pid, flush=True); self.stdout.readline()\n"
        "verification.subprocess.Popen = Announced\n"
        "verification.verify_files([Path(sys.argv[1])])\n"
    )
    with subprocess.Popen(python_command("-c", program, picture), stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        reader = Path(f"/proc/{int(command.stdout.readline())}/stat")
        while int(reader.read_text().split()[13]) < 50:  # hundredths of a second of work
            time.sleep(0.05)
        command.kill()
    end = time.monotonic() + 8  # by itself it ends after more than 10 seconds of the processor
    while _is_running(reader):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_name_that_looks_like_a_verdict_stays_in_quotation_marks() -> None:
    hostile = 'Bob (BBC): an authority that you named vouches for it ("OrgC")'
    summary = Verdict("valid", signer=hostile, organization="A").summary
    assert summary == (
        'valid, signed by "Bob (BBC): an authority that you named vouches for it (\'OrgC\')" of "A": '
        "no authority that you named vouches for it"
    )


def _is_running(stat: Path) -> bool:
    """Whether the process of a file `/proc/…/stat` is there, and not only its status."""
    try:
        return stat.read_text().split()[2] != "Z"
    except OSError:
        return False


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_manifest_that_needs_too_much_memory_ends_at_its_file(picture: Path, tmp_path: Path) -> None:
    """The chunk with the manifest says that it has 3 GiB, most of which are a hole in the file."""
    hostile = tmp_path / "hostile.png"
    length = 3 * 2**30 - 1
    with open(hostile, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)))
        file.write(struct.pack(">I", length) + b"caBX")
        file.seek(length, 1)
        file.write(b"\0\0\0\0" + chunk(b"IEND", b""))
    verdicts = verify_files([picture, hostile, picture])
    assert [verdict.state for verdict in verdicts] == ["valid", "unreadable", "valid"]


def test_a_library_that_ends_its_process_costs_one_verdict(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in place of the real one kills itself at the files that are named so."""
    program = (
        "import json, os, signal, sys\n"
        "for path in json.load(sys.stdin)['paths']:\n"
        "    if 'kill' in path: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if 'hang' in path: os.kill(os.getpid(), signal.SIGPROF)\n"
        "    print(json.dumps({'state': 'unsigned'}), flush=True)\n"
    )
    (tmp_path / "other_process.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(verification, "MODULE", "other_process")
    verdicts = verify_files([Path(name) for name in ("a", "kill1", "kill2", "b", "hang", "c")])
    assert [v.state for v in verdicts] == ["unsigned", "unreadable", "unreadable", "unsigned", "unreadable", "unsigned"]
    assert "SIGSEGV" in verdicts[1].why
    assert "reading it took too long" in verdicts[4].why


@pytest.mark.parametrize("program", ["raise ImportError('no room')", "import sys; sys.exit('no room')"])
def test_a_process_that_cannot_begin_is_told_in_one_line(
    program: str, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_process.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(verification, "MODULE", "broken_process")
    with pytest.raises(BackendError, match=r"ended with status 1: .*no room") as told:
        verify_files([picture])
    assert "\n" not in str(told.value)


def test_damaged_signed_files_are_never_valid_beyond_their_padding(
    signing_folder: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Random damage in every part of the file. A verdict that stays valid still has the recipe that was signed."""
    draws = random.Random(run_seed())
    write_video(tmp_path / "v.mp4", iter([rng.integers(0, 256, (4, 32, 32, 3), np.uint8)]), 4, RECIPE)
    originals = {".png": signed_png(), ".mp4": (tmp_path / "v.mp4").read_bytes()}
    paths = []
    for i in range(150):
        suffix = draws.choice(list(originals))
        data = bytearray(originals[suffix])
        if draws.random() < 0.3:
            del data[draws.randrange(len(data)) :]
        else:
            for _ in range(draws.randint(1, 4)):
                data[draws.randrange(len(data))] = draws.randrange(256)
        paths.append(tmp_path / f"{i}{suffix}")
        paths[-1].write_bytes(data)
    for verdict in verify_files(paths):
        assert "\n" not in verdict.summary
        assert verdict.state != "valid" or verdict.recipe == RECIPE


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a web server, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()


def test_a_manifest_on_a_server_is_not_fetched(server: tuple[str, list[str]], signing_folder: Path, tmp_path: Path) -> None:
    import c2pa

    address, asked = server
    certificates, key = (signing_folder / "certificates.pem").read_bytes(), (signing_folder / "key.pem").read_bytes()
    settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", certificates, key, None))
    builder = c2pa.Builder({"assertions": []}, c2pa.Context.from_dict(settings, signer))
    builder.set_no_embed()
    builder.set_remote_url(f"{address}/manifest.c2pa")
    plain, remote = io.BytesIO(encoded_image(np.zeros((16, 16, 3), np.uint8), ".jpg")), io.BytesIO()
    builder.sign("image/jpeg", plain, remote)
    path = tmp_path / "remote.jpg"
    path.write_bytes(remote.getvalue())
    assert address.encode() in path.read_bytes()
    verdict = verdict_of(path)
    assert verdict.state == "unsigned", verdict
    assert "not fetched" in verdict.summary
    assert asked == []


def test_long_texts_of_a_manifest_are_cut(picture: Path) -> None:
    manifest = {
        "signature_info": {"common_name": "n" * 10_000, "issuer": "two\nlines"},
        "claim_generator_info": [{"name": "p" * 10_000}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": "s" * 9999}, 3]}},
            {"label": reading_process.RECIPE_LABEL, "data": {"schema": 1, "recipe": "r" * 70_000}},
        ],
    }
    statements = reading_process._statements(manifest)
    assert {name: len(text or "") for name, text in statements.items()} == {
        "signer": 200,
        "organization": 9,
        "program": 200,
        "source": 200,
        "recipe": 0,
    }


@pytest.mark.parametrize("manifest", [{}, {"assertions": None}, {"assertions": [{}]}, {"claim_generator_info": None}])
def test_a_manifest_without_statements_has_none(manifest: dict[str, object]) -> None:
    statements = reading_process._statements(manifest)
    assert not any(statements.values())


def test_a_file_of_authorities_that_cannot_be_read_is_told(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(InputError, match="BEGIN CERTIFICATE"):
        verify_files([picture], tmp_path / "text.pem")
    with pytest.raises(InputError, match="does not exist"):
        verify_files([picture], tmp_path / "none.pem")


def test_without_the_extra_the_command_that_installs_it_is_told(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "can_verify", lambda: False)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[provenance\]'"):
        verify_files([picture])


def test_a_report_without_its_manifest_is_a_verdict_on_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "f.png")
    monkeypatch.setattr(reading_process, "limit_cpu_time", lambda _: None)
    reader = reading_process._ManifestReader(None, None)
    monkeypatch.setattr(reader, "_report", lambda *_: ({"active_manifest": "urn:lost", "manifests": {}}, "Invalid"))
    assert reader.verdict(tmp_path / "f.png") == {"state": "unreadable", "reason": "its manifest is damaged"}
