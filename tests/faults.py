"""Kills at every system call that changes names or syncs, and full disks, for tests of files that must be whole or absent.

A killed process leaves the files as they are at that moment. So `recorded_states` copies a folder before each such call of one
run, which is faster than a process for each. `kill_before` really kills, in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stylert.core.files import atomic, locks, partials

#: Of linux/capability.h.
CAPABILITY_VERSION_3, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 0x20080522, 1 << 1, 1 << 2

CALLS = ("fsync", "rename", "replace", "link", "unlink", "rmdir")

#: Runs Python code that is killed before the call of this number.
KILLED = "from tests.faults import kill_before; kill_before({number})\n{code}"


@contextmanager
def recorded_states(folder: Path, copies: Path) -> Iterator[list[Path]]:
    """Copy `folder` before each call, and after the last one. The list of the copies is complete at the end of the block."""
    states: list[Path] = []

    def copy() -> None:
        states.append(copies / f"{len(states):03d}")
        shutil.copytree(folder, states[-1], symlinks=True)

    copies.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        _before_calls(copy, patch.setattr)
        yield states
    copy()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of its own at `folder`. The test is skipped where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here: it takes Linux and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full_disk(disk: Path, left: int) -> Iterator[None]:
    """Fill a file system until at most so many bytes are left."""
    status = os.statvfs(disk)
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left // status.f_frsize * status.f_frsize)
    try:
        yield
    finally:
        ballast.unlink()


def forget_swept_folders(patch: pytest.MonkeyPatch) -> None:
    """From now on this process looks for stale partials again, as a new one does."""
    patch.setattr(partials, "_swept", set())


def run_killed(code: str, number: int, **env: str) -> int:
    """Run Python code in a process that is killed before its call `number`, from 0. Returns its exit code."""
    command = [sys.executable, "-c", KILLED.format(number=number, code=code)]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, timeout=600).returncode


def kill_before(number: int) -> None:
    """Kill this process before its call `number`, from 0."""
    seen = 0

    def count() -> None:
        nonlocal seen
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    _before_calls(count, setattr)


@contextmanager
def at_call(number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Do something before the call of this number, from 0. The list is empty at the end if there were fewer calls."""
    seen, reached = 0, []

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number + 1:
            reached.append(number)
            act()

    with pytest.MonkeyPatch.context() as patch:
        _before_calls(count, patch.setattr)
        yield reached


def started(act: Callable[[], object]) -> Future[object]:
    """Run something in another thread, up to its end, or up to where it waits for a folder that this thread has locked."""
    ready = threading.Event()

    def sleep(seconds: float) -> None:
        ready.set()
        time.sleep(seconds)

    pool = ThreadPoolExecutor(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        running = pool.submit(act)
        running.add_done_callback(lambda _: ready.set())
        ready.wait()
    pool.shutdown(wait=False)
    return running


@contextmanager
def rights_of_a_user() -> Iterator[None]:
    """Let the permissions of files hold for this thread, also where it is root's: without two capabilities of Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    capabilities = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable ones, each in two words
    assert libc.capget(header, capabilities) == 0
    fewer = (ctypes.c_uint32 * 6)(*capabilities)
    fewer[0] &= ~(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH)
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, capabilities) == 0


def _before_calls(act: Callable[[], None], patch: Callable[[Any, str, Any], None]) -> None:
    acting = False

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal acting
            if not acting:
                acting = True
                act()
                acting = False
            return call(*args, **kwargs)

        return run

    for name in CALLS:
        patch(os, name, wrapped(getattr(os, name)))
    patch(atomic, "_exchange", wrapped(atomic._exchange))
