"""A child of a process that has loaded networks works, or says at once why it does not. It never waits without end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stylert.runtime import Bundle
from stylert.runtime.backends import backend

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")

FORK = """
import os, signal, sys
from stylert.core.errors import BackendError
from stylert.core.seeds import z_from_seeds
from stylert.runtime import Generator
bundle, name = sys.argv[1:]
g = Generator.load(bundle, name, threads=2)
images = g([0, 1])
ws = g.map(z_from_seeds([0, 1], g.bundle.model["z_dim"]))

def use(child):
    assert (child([0, 1]) == images).all()
    assert all((part == images).all() for part in child.stream([ws] * 3))
    child.close()

def in_a_child(way, work):
    process = os.fork()
    if process == 0:
        signal.alarm(120)
        try:
            work()
            print(way, "works", flush=True)
        except BackendError as e:
            print(way, e, flush=True)
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(way, "ended with", status, flush=True)

in_a_child("idle", lambda: None)
in_a_child("used", lambda: use(g))
in_a_child("loaded", lambda: use(Generator.load(bundle, name, threads=2)))
stream = g.stream([ws] * 5)
next(stream)
in_a_child("streaming", lambda: next(stream))
in_a_child("stream left", lambda: stream.close())
assert len(list(stream)) == 4
g.close()
in_a_child("closed", lambda: use(Generator.load(bundle, name, threads=2)))
"""


BUSY = """
import os, signal, sys, threading
from stylert.core.errors import BackendError
from stylert.runtime import Generator
bundle, name = sys.argv[1:]
g = Generator.load(bundle, name, threads=1, incremental=True)
expected, end = g([0, 1]), threading.Event()

def work():
    while not end.is_set():
        g([0, 1])

thread = threading.Thread(target=work)
thread.start()
for _ in range(8):
    process = os.fork()
    if process == 0:
        signal.alarm(60)
        try:
            assert (g([0, 1]) == expected).all()
        except BackendError:
            pass
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
end.set()
thread.join()
"""


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_child_does_not_wait_for_an_incremental_call_of_its_parent(bundle: Bundle, name: str) -> None:
    if not backend(name).available():
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([sys.executable, "-c", BUSY, str(bundle.path), name], capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stdout.split()) == (0, ["0"] * 8), done.stderr


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "mnn", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_forked_child_works_or_says_what_to_do_and_ends(bundle: Bundle, name: str) -> None:
    if not backend(name).available():
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([sys.executable, "-c", FORK, str(bundle.path), name], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for way in ("idle", "used", "loaded", "streaming", "stream left", "closed"):
        said = next(lines)
        if way == "streaming":
            assert said.startswith("streaming this stream has begun before this process was forked")
        elif way in ("idle", "stream left") or name == "onnxruntime":
            assert said == f"{way} works"
        else:
            assert said.startswith(way)
            assert "start processes by spawn" in said
        assert next(lines) == f"{way} ended with 0", done.stderr
