"""The key is readable by its owner alone and in no message; settings that cannot sign are told in one line."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from stylert.core.errors import InputError, OutputError, SigningError
from stylert.core.files.configuration import configuration_folder
from stylert.core.provenance import credentials
from stylert.core.provenance.credentials import (
    SWITCH,
    Credential,
    check_vacant,
    chosen_folder,
    default_folder,
    new_test_credential,
    read_credential,
    remove_credential,
    user_credential,
    write_test_credential,
    write_user_credential,
)
from stylert.core.provenance.signing import active_signer
from stylert.core.provenance.verification import verify_files
from tests.core.provenance.certificate_chains import Chain, make_chain
from tests.faults import rights_of_a_user


def written(folder: Path, chain: Chain, mode: int = 0o600) -> tuple[Path, Path]:
    """The files of a user's chain and key in a folder."""
    certificates, key = folder / "chain.pem", folder / "my.key"
    certificates.write_bytes(chain.pem)
    key.write_bytes(chain.key)
    key.chmod(mode)
    return certificates, key


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_files_of_a_key_for_trying_are_open_to_their_owner_alone(mask: int, tmp_path: Path) -> None:
    folder = tmp_path / "key"
    before = os.umask(mask)
    try:
        write_test_credential(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["certificates.pem", "key.pem", "signing.json"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_a_credential_that_is_printed_shows_no_key(tmp_path: Path) -> None:
    credential = write_test_credential(tmp_path / "key")
    secret = credential.key.decode().splitlines()[1]
    assert secret not in repr(credential)
    assert secret not in str(vars(credential.chain))


def test_a_key_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    first = write_test_credential(folder)
    with pytest.raises(OutputError, match="--replace"):
        write_test_credential(folder)
    assert read_credential(folder) == first
    assert write_test_credential(folder, replace=True).key != first.key


def test_a_folder_into_which_everybody_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    write_test_credential(folder)
    folder.chmod(0o777)
    with pytest.raises(SigningError, match="chmod 700") as refused:
        read_credential(folder)
    assert "\n" not in str(refused.value)
    folder.chmod(0o755)
    read_credential(folder)


def test_of_two_that_make_a_key_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = tmp_path / "key", credentials.atomic_directory
    errors: list[BaseException | None] = []

    def interrupted(*arguments: object) -> object:
        monkeypatch.setattr(credentials, "atomic_directory", whole)
        with ThreadPoolExecutor(1) as pool:
            errors.append(pool.submit(write_test_credential, folder).exception())
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(credentials, "atomic_directory", interrupted)
    first = write_test_credential(folder)
    assert "another process is writing there" in str(errors)
    assert read_credential(folder) == first


def test_a_folder_with_files_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"letters\.txt"):
        write_test_credential(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


def test_a_users_files_stay_where_they_are(tmp_path: Path) -> None:
    chain = make_chain()
    certificates, key = written(tmp_path, chain)
    folder = tmp_path / "settings"
    write_user_credential(folder, certificates, key)
    assert [file.name for file in folder.iterdir()] == ["signing.json"]
    assert (read_credential(folder).certificates, read_credential(folder).key) == (chain.pem, chain.key)
    assert remove_credential(folder) == [folder / "signing.json"]
    assert not folder.exists()
    assert key.exists()


def test_a_relative_path_of_a_users_key_is_kept_as_a_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates, key = written(tmp_path, make_chain())
    monkeypatch.chdir(tmp_path)
    write_user_credential(Path("settings"), Path(certificates.name), Path(key.name))
    monkeypatch.chdir("/")
    assert read_credential(tmp_path / "settings").chain.signer == "Ada (Example)"


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o602, 0o644, 0o666])
def test_a_key_that_every_user_may_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    certificates, key = written(tmp_path, make_chain(), mode)
    with pytest.raises(InputError, match="chmod 600"):
        user_credential(certificates, key)


def test_removing_removes_the_key_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    write_test_credential(folder)
    (folder / "notes.txt").write_text("mine")
    assert {file.name for file in remove_credential(folder)} == {"signing.json", "key.pem", "certificates.pem"}
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    assert remove_credential(folder) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "key.pem").unlink(), "does not exist"),
        (lambda folder: (folder / "certificates.pem").unlink(), "does not exist"),
        (lambda folder: (folder / "key.pem").chmod(0o644), "chmod 600"),
        (lambda folder: (folder / "key.pem").write_bytes(make_chain().key), "not that of the first certificate"),
        (lambda folder: (folder / "signing.json").write_text("{}"), "is not valid"),
        (lambda folder: (folder / "signing.json").write_text("["), "is not valid"),
        (
            lambda folder: (folder / "signing.json").write_text('{"version": 2, "certificates": "a", "key": "b"}'),
            "reads version 1",
        ),
        (lambda folder: (folder / "certificates.pem").write_bytes(b"x" * 2**20), "is larger than"),
    ],
)
def test_a_damaged_credential_is_told_with_the_ways_out(change: object, message: str, tmp_path: Path) -> None:
    write_test_credential(tmp_path / "key")
    change(tmp_path / "key")  # type: ignore[operator]
    with pytest.raises(SigningError) as refused:
        read_credential(tmp_path / "key")
    assert message in str(refused.value)
    assert "--no-sign" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["ftp://a", "a", "file:///etc/passwd", ""])
def test_a_timestamp_server_is_an_address_of_the_web(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="begins with http"):
        new_test_credential(address)
    with pytest.raises(InputError, match="begins with http"):
        write_user_credential(tmp_path / "key", tmp_path / "a", tmp_path / "b", timestamp_server=address)
    assert not (tmp_path / "key").exists()


def test_without_a_key_nothing_is_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert chosen_folder() is None
    assert active_signer() is None


def test_without_a_home_folder_nothing_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise InputError("unknown")

    monkeypatch.setattr(credentials, "configuration_folder", unknown)
    assert chosen_folder() is None


@pytest.mark.parametrize("named", [False, True], ids=["in the settings", "by the switch"])
def test_a_folder_that_may_not_be_searched_is_told_and_a_picture_is_not_left_unsigned(
    named: bool, signing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of another user after `sudo -u`."""
    if named:
        monkeypatch.setenv(SWITCH, str(signing_folder))
    picture = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(picture)
    signing_folder.chmod(0)
    try:
        with rights_of_a_user():
            with pytest.raises(SigningError, match=rf"{re.escape(str(signing_folder))} may hold the key .*chmod.*--no-sign"):
                active_signer()
            with pytest.raises(OutputError, match=rf"cannot write {re.escape(str(signing_folder))}: Permission denied"):
                check_vacant(signing_folder, replace=True)
            assert verify_files([picture])[0].state == "unsigned"
            monkeypatch.setenv(SWITCH, "off")
            assert active_signer() is None
    finally:
        signing_folder.chmod(0o700)


@pytest.mark.parametrize("value", ["off", "0", "no"])
def test_the_switch_turns_signatures_off(value: str, signing_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert active_signer() is not None
    monkeypatch.setenv(SWITCH, value)
    assert active_signer() is None


def test_the_switch_names_another_folder(signing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other: Credential = write_test_credential(tmp_path / "other")
    monkeypatch.setenv(SWITCH, str(tmp_path / "other"))
    signer = active_signer()
    assert signer is not None
    assert signer.chain == other.chain


@pytest.mark.parametrize("value", ["key", "on", "1", "/nowhere", "./key"])
def test_a_switch_that_names_no_credential_is_told(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_test_credential(tmp_path / "key")
    monkeypatch.setenv(SWITCH, value)
    with pytest.raises(SigningError, match=SWITCH):
        chosen_folder()


@pytest.mark.parametrize(
    ("home", "settings", "folder"),
    [
        ("/home/a", None, "/home/a/.config/stylert"),
        ("/home/a", "/etc/of/a", "/etc/of/a/stylert"),
        ("/home/a", "relative", "/home/a/.config/stylert"),
        ("home", "/etc/of/a", "/etc/of/a/stylert"),
    ],
)
def test_relative_folders_in_the_environment_are_not_used(
    home: str, settings: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    if settings is None:
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", settings)
    assert configuration_folder() == Path(folder)
    assert default_folder() == Path(folder) / "provenance"


def test_no_file_of_the_user_is_lost_under_a_name_of_ours(tmp_path: Path) -> None:
    chain = make_chain()
    for name, content in (("certificates.pem", chain.pem), ("key.pem", chain.key)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert remove_credential(tmp_path) == []
    with pytest.raises(OutputError, match=r"also holds certificates\.pem, key\.pem"):
        write_test_credential(tmp_path)
    with pytest.raises(OutputError, match=r"certificates\.pem lies in .*, whose files are replaced: move it"):
        write_user_credential(tmp_path, tmp_path / "certificates.pem", tmp_path / "key.pem")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_key_that_a_user_puts_in_place_of_ours_is_kept(tmp_path: Path) -> None:
    folder, chain = tmp_path / "key", make_chain()
    write_test_credential(folder)
    (folder / "key.pem").write_bytes(chain.key)
    with pytest.raises(OutputError, match=r"certificates\.pem lies in .*, whose files are replaced: move it"):
        write_user_credential(folder, folder / "certificates.pem", folder / "key.pem", replace=True)
    with pytest.raises(OutputError, match=r"also holds key\.pem"):
        write_test_credential(folder, replace=True)
    assert remove_credential(folder) == [folder / "certificates.pem", folder / "signing.json"]
    assert [path.read_bytes() for path in folder.iterdir()] == [chain.key]


def test_a_removal_that_was_killed_is_finished_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "key"
    write_test_credential(folder)
    (folder / "key.pem").unlink()
    assert remove_credential(folder) == [folder / "certificates.pem", folder / "signing.json"]
    assert not folder.exists()
