"""`stylert provenance` as somebody uses it: a key, signed files of every command, and the check of what came back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import encypher_c2pa
import numpy as np
import pytest
from PIL import Image

from stylert.core.provenance.credentials import default_folder
from stylert.core.provenance.signing import forget_signer
from stylert.core.provenance.verification import verify_files
from stylert.runtime.bundle import Bundle
from tests.cli.conftest import Run
from tests.core.provenance.certificate_chains import Chain, make_chain, self_signed
from tests.core.provenance.test_credentials import written


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """As the shared fixture, with settings of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("STYLERT_SIGN", "")  # so that the end of the test also undoes what --no-sign sets

    def call(*args: object) -> tuple[int, str, str]:
        result = run(*args)
        monkeypatch.setenv("STYLERT_SIGN", "")
        return result

    return call


def key_text(folder: Path) -> str:
    """A line of the private key, which may be in no output."""
    return (folder / "key.pem").read_text().splitlines()[1]


def test_every_command_that_draws_signs_after_init(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    assert run("provenance", "init")[0] == 0
    fast = ("--threads", 1)
    for args in (
        ("generate", bundle.path, "--seeds", "0-2", "--out", "images"),
        ("generate", bundle.path, "--seeds", "0-3", "--grid", "--out", "images"),
        ("mix", bundle.path, "--rows", "0,1", "--cols", "2", "--out", "mix.jpg"),
        ("sweep", bundle.path, "--seeds", "0", "--psi", "0,1", "--out", "sweep.webp"),
        ("interpolate", bundle.path, "--seeds", "0,1", "--seconds", "0.4", "--fps", "10", "--out", "video.mp4"),
        ("interpolate", bundle.path, "--seeds", "0,1", "--seconds", "0.4", "--fps", "10", "--out", "video.webp"),
        ("interpolate", bundle.path, "--seeds", "0,1", "--seconds", "0.4", "--fps", "10", "--out", "video.gif"),
        ("again", "images/seed0002.png", "--bundle", bundle.path, "--out", "again.png"),
    ):
        code, _, err = run(*args, *fast)
        assert code == 0, err
    files = [*sorted(Path("images").iterdir()), *(Path(f"video.{kind}") for kind in ("mp4", "webp", "gif"))]
    files += [Path("mix.jpg"), Path("sweep.webp"), Path("again.png")]
    code, out, _ = run("provenance", "verify", *files)
    assert code == 0, out
    assert f"{len(files)} of {len(files)} files are verified" in out
    assert {encypher_c2pa.verify(str(file))["integrity"] for file in files} == {"valid"}  # a reader without c2pa-rs
    for verdict in verify_files(files):
        assert json.loads(verdict.recipe or "")["AI-generated"] is True
        assert len(json.loads(verdict.recipe or "")["bundle"]) == 64


def test_a_signed_picture_is_made_again_and_its_signature_told(run: Run, bundle: Bundle) -> None:
    run("provenance", "init")
    run("generate", bundle.path, "--seeds", "5", "--out", "images", "--threads", 1)
    code, _, err = run("again", "images/seed0005.png", "--bundle", bundle.path, "--out", "again.png", "--threads", 1)
    assert code == 0, err
    assert "images/seed0005.png: valid" in err
    with Image.open("images/seed0005.png") as a, Image.open("again.png") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_changed_picture_is_made_again_with_a_warning(run: Run, bundle: Bundle) -> None:
    run("provenance", "init")
    run("generate", bundle.path, "--seeds", "5", "--out", "images", "--threads", 1)
    picture = Path("images/seed0005.png")
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    code, _, err = run("again", picture, "--bundle", bundle.path, "--out", "again.png", "--threads", 1)
    assert code == 0, err
    assert "not valid: its bytes were changed after it was signed" in err


def test_a_picture_without_a_signature_is_made_again_as_before(run: Run, bundle: Bundle) -> None:
    run("generate", bundle.path, "--seeds", "5", "--out", "images", "--threads", 1)
    code, _, err = run("again", "images/seed0005.png", "--bundle", bundle.path, "--out", "again.png", "--threads", 1)
    assert code == 0, err
    assert "signature" not in err
    assert Path("again.png").read_bytes() == Path("images/seed0005.png").read_bytes()


def test_a_flag_leaves_signatures_out(run: Run, bundle: Bundle) -> None:
    run("provenance", "init")
    assert run("generate", bundle.path, "--seeds", "0", "--out", "images", "--no-sign", "--threads", 1)[0] == 0
    code, out, _ = run("provenance", "verify", "images/seed0000.png")
    assert code == 1
    assert "not signed" in out


def test_a_picture_that_pillow_saves_again_is_not_signed(run: Run, bundle: Bundle) -> None:
    run("provenance", "init")
    run("generate", bundle.path, "--seeds", "0", "--out", "images", "--threads", 1)
    for suffix in (".png", ".jpg", ".webp"):
        with Image.open("images/seed0000.png") as picture:
            picture.save(f"saved{suffix}")
        code, out, _ = run("provenance", "verify", f"saved{suffix}")
        assert (code, "not signed" in out) == (1, True)


def test_verify_tells_each_file_and_its_exit_code_the_whole(run: Run, bundle: Bundle) -> None:
    run("provenance", "init")
    run("generate", bundle.path, "--seeds", "0-1", "--out", "images", "--threads", 1)
    good, bad = Path("images/seed0000.png"), Path("images/seed0001.png")
    data = bytearray(bad.read_bytes())
    data[-20] ^= 1
    bad.write_bytes(data)
    Path("text.png").write_text("no picture")
    code, out, err = run("provenance", "verify", good, bad, "text.png", "--json", "verdicts.json")
    assert (code, err) == (1, "")
    assert [line.partition(":")[2].split(",")[0].strip() for line in out.splitlines()[:3]] == [
        "valid",
        "not valid: its bytes were changed after it was signed",
        "it is no PNG",
    ]
    rows = json.loads(Path("verdicts.json").read_text())["files"]
    assert [(row["state"], row["verified"], row["test_certificate"]) for row in rows] == [
        ("valid", True, True),
        ("invalid", False, True),
        ("unreadable", False, False),
    ]
    code, _, err = run("provenance", "verify", good, "none.png")
    assert code == 2
    assert err == "stylert: picture none.png does not exist\n"


def test_verify_with_authorities_wants_one_of_them(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    run("provenance", "init")
    run("generate", bundle.path, "--seeds", "0", "--out", "images", "--threads", 1)
    (tmp_path / "other.pem").write_bytes(make_chain().pem)
    assert run("provenance", "verify", "images/seed0000.png", "--trust", "other.pem")[0] == 1
    assert run("provenance", "verify", "images/seed0000.png", "--trust", default_folder() / "certificates.pem")[0] == 0


def test_no_output_shows_the_key(run: Run, bundle: Bundle) -> None:
    outputs = [run("provenance", "init"), run("provenance", "status"), run("provenance", "init")]
    secret = key_text(default_folder())
    outputs += [run("generate", bundle.path, "--seeds", "0", "--out", "images", "--threads", 1)]
    (default_folder() / "certificates.pem").write_text("damaged")
    forget_signer()
    outputs += [run("generate", bundle.path, "--seeds", "0", "--out", "more", "--threads", 1), run("provenance", "status")]
    assert [code for code, _, _ in outputs] == [0, 0, 2, 0, 2, 2]
    assert not any(secret in out + err for _, out, err in outputs)
    assert secret.encode() not in Path("images/seed0000.png").read_bytes()


def test_status_tells_whose_key_signs_and_until_when(run: Run, tmp_path: Path) -> None:
    assert "not signed" in run("provenance", "status")[1]
    certificates, key = written(tmp_path, make_chain())
    assert run("provenance", "init", "--cert", certificates, "--key", key)[0] == 0
    _, out, _ = run("provenance", "status")
    assert "Ada (Example)" in out
    assert "test certificate" not in out
    assert str(key) in out
    assert "PRIVATE" not in out


def test_remove_ends_signatures(run: Run, bundle: Bundle) -> None:
    run("provenance", "init")
    code, out, _ = run("provenance", "remove")
    assert (code, "key.pem" in out) == (0, True)
    run("generate", bundle.path, "--seeds", "0", "--out", "images", "--threads", 1)
    assert run("provenance", "verify", "images/seed0000.png")[0] == 1
    assert "there is no key" in run("provenance", "remove")[1]


def test_a_folder_of_its_own_signs_where_the_variable_names_it(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run("provenance", "init", "--folder", "project-key")
    assert f"STYLERT_SIGN={tmp_path / 'project-key'}" in out
    run("generate", bundle.path, "--seeds", "0", "--out", "images", "--threads", 1)
    assert run("provenance", "verify", "images/seed0000.png")[0] == 1
    monkeypatch.setenv("STYLERT_SIGN", str(tmp_path / "project-key"))
    run("generate", bundle.path, "--seeds", "0", "--out", "images", "--threads", 1)
    assert run("provenance", "verify", "images/seed0000.png")[0] == 0


WRONG_CHAINS = {
    "expired": lambda: make_chain(start=-9, end=-2),
    "self-signed": self_signed,
    "of a web server": lambda: make_chain(purposes=None),
    "with the key of another": lambda: Chain(make_chain().pem, make_chain().key, []),
}


@pytest.mark.parametrize("name", WRONG_CHAINS)
def test_a_wrong_chain_is_one_line_and_changes_nothing(name: str, run: Run, tmp_path: Path) -> None:
    certificates, key = written(tmp_path, WRONG_CHAINS[name]())
    run("provenance", "init")
    before = (default_folder() / "key.pem").read_bytes()
    code, out, err = run("provenance", "init", "--cert", certificates, "--key", key, "--replace")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("stylert: ")
    assert (default_folder() / "key.pem").read_bytes() == before


@pytest.mark.parametrize(
    "args",
    [
        ("init", "--cert", "a.pem"),
        ("init", "--key", "a.pem"),
        ("init", "--cert", "none.pem", "--key", "none.pem"),
        ("init", "--cert", ".", "--key", "."),
        ("init", "--cert", "/dev/zero", "--key", "/dev/zero"),
        ("init", "--timestamp-server", "nowhere"),
        ("init", "--folder", "file"),
        ("verify",),
        ("verify", "a.png", "--trust", "none.pem"),
        ("verify", "none.png"),
        ("sign-bundle", "none"),
    ],
)
def test_a_mistake_is_one_line(args: tuple[str, ...], run: Run) -> None:
    Path("file").write_text("in the way")
    Path("a.png").write_text("a")
    code, _, err = run("provenance", *args)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert not default_folder().exists()


def test_an_expired_certificate_is_told_before_the_network_runs(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    run("provenance", "init")
    expired = make_chain(start=-9, end=-2)
    (default_folder() / "certificates.pem").write_bytes(expired.pem)
    (default_folder() / "key.pem").write_bytes(expired.key)
    forget_signer()
    code, _, err = run("generate", bundle.path, "--seeds", "0-9", "--out", "images", "--threads", 1)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "expired on" in err
    assert "--no-sign" in err
    assert not list(Path("images").glob("*"))
    assert run("generate", bundle.path, "--seeds", "0", "--out", "images", "--no-sign", "--threads", 1)[0] == 0


def test_a_signed_bundle_is_required_by_a_flag(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    run("provenance", "init")
    certificates = default_folder() / "certificates.pem"
    draw = ("generate", "bundle", "--seeds", "0", "--out", "images", "--threads", 1, "--require-signature", certificates)
    code, _, err = run(*draw)
    assert (code, "is not signed" in err) == (2, True)
    code, out, _ = run("provenance", "sign-bundle", "bundle")
    assert (code, "signed by unnamed user" in out) == (0, True)
    assert run(*draw)[0] == 0
    run("mix", "bundle", "--rows", "0", "--cols", "1", "--out", "mix.png", "--threads", 1, "--require-signature", certificates)
    assert Path("mix.png").exists()
    with open("bundle/bundle.json", "a") as file:
        file.write("\n")
    for command in (draw, ("again", "mix.png", "--out", "b.png", "--bundle", "bundle", "--require-signature", certificates)):
        code, _, err = run(*command)
        assert code == 2
        assert "was changed after it was signed" in err.splitlines()[-1]
