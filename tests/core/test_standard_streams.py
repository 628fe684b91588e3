"""Streams that are redirected while native code prints are themselves again afterwards, whatever the threads do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from stylert.core.standard_streams import plain_stderr, silent_stdout


def test_what_is_written_into_a_file_has_no_escape_codes(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError), plain_stderr():
        os.write(2, b"\x1b[0;93mUnknown CPU vendor\x1b[m\nnext [0;1m]\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'\\x1b[1Kof a child')"])
        raise ImportError
    os.write(2, b" after")
    assert capfd.readouterr().err == "Unknown CPU vendor\nnext [0;1m]\nof a child after"


@pytest.mark.parametrize(("redirected", "descriptor"), [(plain_stderr, 2), (silent_stdout, 1)])
def test_threads_that_redirect_at_the_same_time_leave_the_stream_as_it_was(
    capfd: pytest.CaptureFixture[str], redirected: type, descriptor: int
) -> None:
    before = os.fstat(descriptor)
    inside, overlap, ended = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with redirected():
            inside.set()
            overlap.wait(0.3)  # for as long as the second takes to enter, if it may
        ended.set()

    def second() -> None:
        inside.wait()
        with redirected():
            overlap.set()
            ended.wait(0.3)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = os.fstat(descriptor)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
