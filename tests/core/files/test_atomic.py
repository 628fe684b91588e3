"""A file or folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stylert.core.errors import OutputError
from stylert.core.files import atomic, locks
from stylert.core.files.atomic import append_line, atomic_directory, atomic_file, check_writable
from stylert.core.files.locks import changing_folder, locked_folder
from stylert.core.files.partials import PARTIAL_SUFFIX, new_partial_file, new_partial_folder
from tests.faults import forget_swept_folders, recorded_states, rights_of_a_user, run_killed, started

WRITE_FILE = """
from stylert.core.files.atomic import atomic_file
with atomic_file("f") as temporary:
    temporary.write_text("new")
"""
WRITE_FOLDER = """
from stylert.core.files.atomic import atomic_directory
with atomic_directory("d", None) as temporary:
    (temporary / "f").write_text("new")
    (temporary / "g").write_text("new")
"""


def write_folder(path: Path, content: str) -> None:
    with atomic_directory(path, None) as temporary:
        (temporary / "f").write_text(content)
        (temporary / "g").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder: that of Linux, and that of file systems which cannot exchange two names."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    return str(request.param)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_failed_folder_leaves_the_old_one_and_no_other(way: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    for content in ("first", "second"):
        write_folder(path, content)
    with pytest.raises(RuntimeError), atomic_directory(path, None) as temporary:
        (temporary / "f").write_text("half")
        raise RuntimeError
    assert (path / "f").read_text() == "second"
    assert names(tmp_path) == ["d"]


def test_replacing_a_folder_removes_its_own_files_that_the_new_one_lacks(way: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "stale").write_text("x")
    with atomic_directory(path, lambda folder: ["stale"]) as temporary:
        (temporary / "new").write_text("y")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["d"]


def test_a_folder_with_files_of_others_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "d"
    (path / "pictures").mkdir(parents=True)
    (path / "own").write_text("x")
    (path / "pictures" / "cat.png").write_text("x")
    (path / "link").symlink_to(tmp_path)
    with (
        pytest.raises(OutputError, match=r"it also holds link, pictures/cat\.png; move"),
        atomic_directory(path, lambda _: ["own"]),
    ):
        pytest.fail("the work has begun")
    (path / "pictures" / "cat.png").unlink()
    (path / "link").unlink()
    with pytest.raises(OutputError, match=r"also holds NOTES"), atomic_directory(path, lambda _: ["own"]) as temporary:
        (temporary / "new").write_text("y")
        (path / "NOTES").write_text("came during the work")
    assert names(path) == ["NOTES", "own", "pictures"]
    assert names(tmp_path) == ["d"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), atomic_file(tmp_path / "file" / "below"):
        pass
    with pytest.raises(OutputError, match="in the way"), atomic_directory(tmp_path / "file", None):
        pass
    for path in (Path("/proc/nowhere/f"), tmp_path / ("a" * 300), Path("a\0b")):
        with pytest.raises(OutputError, match="cannot write"), atomic_file(path):
            pass
        with pytest.raises(OutputError, match="cannot write"), atomic_directory(path, None):
            pass


def test_what_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "below", Path("/proc/nowhere/f"), Path("/dev/null")):
        with pytest.raises(OutputError, match=f"cannot write {path}: "):
            check_writable(path)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "f")
    check_writable(None)
    assert (tmp_path / "file").read_text() == "x"
    assert [p.name for p in tmp_path.rglob("*")] == ["file"]  # a command that is refused for another reason leaves no folder


def test_devices_and_pipes_are_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="not a regular file"), atomic_file(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_links_are_followed_and_stay(way: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("old")
    (tmp_path / "f").symlink_to("real/f")
    (tmp_path / "new").symlink_to("real/new")
    (tmp_path / "d").symlink_to("real/d")
    write_folder(tmp_path / "real" / "d", "old")
    for name in ("f", "new"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("new")
    write_folder(tmp_path / "d", "new")
    assert all((tmp_path / name).is_symlink() for name in ("f", "new", "d"))
    assert {(tmp_path / "real" / name).read_text() for name in ("f", "new", "d/f")} == {"new"}
    assert names(tmp_path / "real") == ["d", "f", "new"]


@pytest.mark.parametrize("target", ["victim", "absent"])
@pytest.mark.parametrize("link", ["link", "folder/link", "link/folder"])
def test_no_link_below_a_folder_of_others_is_followed(link: str, target: str, tmp_path: Path) -> None:
    victim, within = tmp_path / "victim", tmp_path / "within"
    victim.mkdir()
    (victim / f".f{PARTIAL_SUFFIX}").write_text("kept")
    (within / "folder").mkdir(parents=True)
    place = within / link
    (within / link.removesuffix("/folder")).symlink_to(tmp_path / target)
    for path in (place, place / "f"):
        with pytest.raises(OutputError, match=r"link is a link"), atomic_file(path, within):
            pass
        with pytest.raises(OutputError, match=r"link is a link"), atomic_directory(path, None, within):
            pass
    assert names(tmp_path) == ["victim", "within"]
    assert names(victim) == [f".f{PARTIAL_SUFFIX}"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not name open descriptors")
@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_name_of_an_open_descriptor_is_no_place_for_a_file(is_deleted: bool, tmp_path: Path) -> None:
    with open(tmp_path / "table.txt", "w") as table:
        if is_deleted:
            (tmp_path / "table.txt").unlink()
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{table.fileno()}")
        before = names(tmp_path)
        for path in (f"/dev/fd/{table.fileno()}", f"/proc/{os.getpid()}/fd/{table.fileno()}", tmp_path / "link", "/dev/stdout"):
            for write in (lambda p: atomic_file(p), lambda p: atomic_directory(p, None)):
                with pytest.raises(OutputError, match=f"cannot write {path}: it is an open stream"), write(path):
                    pass
            with pytest.raises(OutputError, match="it is an open stream"):
                check_writable(path)
        assert names(tmp_path) == before


def test_the_folder_of_others_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with atomic_file(tmp_path / "link" / "a" / "f", tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "there" / "a" / "f").read_text() == "new"


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d" / "below").mkdir(parents=True)
    for current, path in (("d", "."), ("d/below", "..")):
        monkeypatch.chdir(tmp_path / current)
        with pytest.raises(OutputError, match="current folder"), atomic_directory(path, None):
            pass


def test_files_and_folders_get_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            with atomic_file(tmp_path / f"a{mask}") as temporary:
                temporary.write_text("")
            write_folder(tmp_path / f"c{mask}", "")
            (tmp_path / f"b{mask}").write_text("")
            (tmp_path / f"d{mask}").mkdir()
        finally:
            os.umask(before)
        assert (tmp_path / f"a{mask}").stat().st_mode == (tmp_path / f"b{mask}").stat().st_mode
        assert (tmp_path / f"c{mask}").stat().st_mode == (tmp_path / f"d{mask}").stat().st_mode


def test_the_umask_of_the_process_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that made a file at that moment would make it writable for all."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is changed"))
    with atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("")
    write_folder(tmp_path / "d", "")


@pytest.mark.parametrize("new", [new_partial_file, new_partial_folder])
def test_a_file_system_that_makes_no_files_is_refused(
    new: Callable[[Path], tuple[Path, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as /proc: it says that a file does not exist, although its folder does."""
    attempts = []

    def refuse(path: str, *_: object) -> int:
        attempts.append(path)
        assert len(attempts) < 1000, "this comes to no end"
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileNotFoundError):
        new(tmp_path / "f")
    assert attempts


def test_a_folder_whose_name_is_always_taken_away_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def refuse(*_: object) -> bool:
        attempts.append(1)
        assert len(attempts) < 1000, "this comes to no end"
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    write_folder(tmp_path / "d", "old")
    monkeypatch.setattr(atomic, "_exchange", refuse)
    with pytest.raises(OutputError, match="No such file"):
        write_folder(tmp_path / "d", "new")
    assert names(tmp_path) == ["d"]


def test_a_second_process_is_kept_out_of_a_locked_folder(tmp_path: Path) -> None:
    enter = (
        "import sys; from stylert.core.files.locks import changing_folder, locked_folder\nwith locked_folder(sys.argv[1]): pass"
    )
    for held in (True, False):
        command = [sys.executable, "-c", enter, str(tmp_path / "run")]
        if held:
            with locked_folder(tmp_path / "run"):
                done = subprocess.run(command, capture_output=True, text=True)
                assert "another process is writing there" in done.stderr
        else:
            assert subprocess.run(command).returncode == 0
    assert names(tmp_path) == [], "an empty folder that was made for it goes"
    (tmp_path / "mine").mkdir()
    with locked_folder(tmp_path / "mine"):
        pass
    assert names(tmp_path) == ["mine"]


def test_a_block_of_the_same_thread_may_lock_its_folder_again_and_another_thread_may_not(tmp_path: Path) -> None:
    def enter() -> None:
        with locked_folder(tmp_path / "run"):
            pass

    with ThreadPoolExecutor(1) as other:
        with locked_folder(tmp_path / "run"):
            enter()
            (tmp_path / "link").symlink_to("run")
            with locked_folder(tmp_path / "link"), pytest.raises(OutputError, match="another process is writing there"):
                other.submit(enter).result()
            with pytest.raises(OutputError, match="another process is writing there"):
                other.submit(enter).result()
        other.submit(enter).result()


def test_a_folder_in_which_files_change_is_replaced_after_that(way: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "d", "old")
    (tmp_path / "link").symlink_to("d")
    with changing_folder(tmp_path / "link"):
        writing = started(lambda: write_folder(tmp_path / "d", "new"))
        assert (tmp_path / "d" / "f").read_text() == "old"
        with changing_folder(tmp_path / "d"):
            (tmp_path / "d" / "f").write_text("changed")
    writing.result()
    assert {name: (tmp_path / "d" / name).read_text() for name in names(tmp_path / "d")} == {"f": "new", "g": "new"}
    assert names(tmp_path) == ["d", "link"]


def test_who_has_waited_for_a_folder_has_the_one_that_is_there_then(way: str, tmp_path: Path) -> None:
    def change() -> None:
        with changing_folder(tmp_path / "d"):
            (tmp_path / "d" / "f").write_text((tmp_path / "d" / "f").read_text() + " and changed")

    write_folder(tmp_path / "d", "old")
    with changing_folder(tmp_path / "d"):
        changing = started(change)
        assert not changing.done()
        write_folder(tmp_path / "d", "new")
    changing.result()
    assert (tmp_path / "d" / "f").read_text() == "new and changed"


def test_a_folder_with_long_work_in_it_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    write_folder(tmp_path / "d", "old")
    with locked_folder(tmp_path / "d"), pytest.raises(OutputError, match="another process is writing there"):
        started(lambda: write_folder(tmp_path / "d", "new")).result()
    assert (tmp_path / "d" / "f").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_an_error_within_the_block_names_no_partial(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with (
        pytest.raises(OutputError, match=rf"^cannot write {re.escape(str(path))}/engine: full$"),
        atomic_directory(path, None) as d,
    ):
        raise OutputError(f"cannot write {d / 'engine'}: full")
    for by_library in (False, True):
        refused = pytest.raises(OutputError, match=rf"^cannot write {re.escape(str(path))}: full$")
        with refused, atomic_file(path, by_library=by_library) as file:
            raise OutputError(f"cannot write {file}: full")


@pytest.mark.parametrize("name", ["list", "network"])
def test_a_file_that_cannot_be_read_is_the_reason_why_a_folder_is_not_replaced(name: str, tmp_path: Path) -> None:
    def own_files(folder: Path) -> set[str]:
        own = set()
        with contextlib.suppress(PermissionError):
            for file in (folder / "list").read_text().split():
                (folder / file).read_text()
                own.add(file)
        return own

    folder = tmp_path / "d"
    with atomic_directory(folder, None) as temporary:
        (temporary / "list").write_text("list network")
        (temporary / "network").touch()
    (folder / name).chmod(0)
    refused = pytest.raises(OutputError, match=f"cannot replace .*/d: {name} in it cannot be read: Permission denied")
    with rights_of_a_user(), refused, atomic_directory(folder, own_files):
        pass
    (folder / name).chmod(0o600)
    with atomic_directory(folder, own_files):
        pass
    assert names(folder) == []


@pytest.mark.parametrize("code", [WRITE_FILE, WRITE_FOLDER], ids=["file", "folder"])
def test_a_killed_process_leaves_the_old_or_the_new_content_and_the_next_one_removes_the_rest(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    seen = set()
    for number in range(100):
        (tmp_path / "f").write_text("old")
        write_folder(tmp_path / "d", "old")
        status = run_killed(code, number)
        assert status in (0, -signal.SIGKILL)
        seen.add(((tmp_path / "f").read_text(), (tmp_path / "d" / "f").read_text(), (tmp_path / "d" / "g").read_text()))
        if status == 0:
            break
        forget_swept_folders(monkeypatch)
        with atomic_file(tmp_path / "other") as temporary:
            temporary.write_text("")
        assert names(tmp_path) == ["d", "f", "other"]
    new = ("new", "old", "old") if code.endswith(WRITE_FILE) else ("old", "new", "new")
    assert seen == {("old", "old", "old"), new}
    assert number >= 3, "the calls are not seen"


@pytest.mark.parametrize("exists", [False, True])
def test_at_every_moment_a_folder_is_the_old_one_or_the_new_one(
    way: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if exists:
        write_folder(place / "d", "old")
    with recorded_states(place, tmp_path / "states") as states:
        write_folder(place / "d", "new")
    seen = set()
    for state in states:
        contents = {name: (state / "d" / name).read_text() if (state / "d").exists() else None for name in ("f", "g")}
        if way == "exchange":
            assert len(set(contents.values())) == 1
            seen.add(contents["f"])
        forget_swept_folders(monkeypatch)
        with atomic_file(state / "other") as temporary:  # another write: it restores or removes, whatever is left
            temporary.write_text("")
        rest = names(state)
        assert rest == ["d", "other"] or (not exists and rest == ["other"])
        if exists or "d" in rest:
            assert len({(state / "d" / name).read_text() for name in ("f", "g")}) == 1
        write_folder(state / "d", "again")
        assert names(state / "d") == ["f", "g"]
    if way == "exchange":
        assert seen == {"old" if exists else None, "new"}


def test_what_another_process_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers: list[Callable[[Path], tuple[Path, int]]] = [new_partial_file, new_partial_folder]
    for make in makers:
        path, descriptor = make(tmp_path / "x")
        for held in (True, False):
            forget_swept_folders(monkeypatch)
            with atomic_file(tmp_path / "f") as temporary:
                temporary.write_text("")
            assert path.exists() is held
            if held:
                os.close(descriptor)


def test_hidden_files_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".profile.1a2b3c4d.partial", "x.stylert.partial", ".f"):
        (tmp_path / name).write_text("")
    before = names(tmp_path)
    forget_swept_folders(monkeypatch)
    with atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("")
    assert names(tmp_path) == sorted([*before, "f"])


def test_threads_that_replace_one_folder_at_once_all_succeed(way: str, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(10):
                write_folder(tmp_path / "d", str(number))
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (tmp_path / "d" / "f").read_text() == (tmp_path / "d" / "g").read_text()
    assert names(tmp_path) == ["d"]


def test_a_full_disk_leaves_the_old_file_and_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails in the middle."""
    (tmp_path / "f").write_text("old")
    write_folder(tmp_path / "d", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*f: File too large"), atomic_file(tmp_path / "f") as temporary:
            temporary.write_bytes(bytes(2000))
        with (
            pytest.raises(OutputError, match=r"cannot write .*d: File too large"),
            atomic_directory(tmp_path / "d", None) as folder,
        ):
            (folder / "f").write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "f").read_text() == (tmp_path / "d" / "f").read_text() == "old"
    assert names(tmp_path) == ["d", "f"]


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".png", "ä" * 125 + ".json"):
        check_writable(tmp_path / name)
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("x")
        with atomic_directory(tmp_path / "d" / name, None) as folder:
            (folder / "f").touch()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(OutputError, match="too long"):
        check_writable(tmp_path / ("n" * 256))


def test_a_line_behind_one_that_a_kill_cut_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "stats.jsonl"
    append_line(file, {"a": 1})
    append_line(file, {"a": 2})
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n'
    file.write_text('{"a": 1}\n{"a": 2')
    append_line(file, {"a": 3})
    assert file.read_text().splitlines()[-1] == '{"a": 3}'


def test_the_current_folder_may_be_gone(tmp_path: Path) -> None:
    code = f"""
import os
from stylert.core.files.atomic import atomic_directory
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
for _ in range(2):
    with atomic_directory({str(tmp_path / "d")!r}, None) as folder:
        (folder / "f").touch()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
