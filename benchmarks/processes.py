"""New processes for measurements: none has the memory, the caches or the threads of another.

Each has a pipe to this process, and nothing else. The executors of the standard library also need semaphores, which are files
in `/dev/shm`, and a thread: they fail where the shared memory is small or the memory limited.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from stylert.core.child_processes import end_with_parent, safe_path
from stylert.core.errors import BackendError

#: Seconds that a call has to clean up when it is stopped.
STOP_SECONDS = 10.0


@contextmanager
def new_process(name: str, setup: Callable[..., object] | None = None, *arguments: Any) -> Iterator[Callable[..., Any]]:
    """Start a process, and yield a function that calls another one there: `call(function, *arguments)` is its result.

    The process ends with the block. If the block raises, as after Ctrl-C, the call that runs there is stopped.

    Args:
        name: The name of the measurement, for messages.
        setup: Called first, in the process.
        *arguments: Those of `setup`.

    Raises:
        BackendError: The process cannot be started, or it has died. Any error of a function is raised as it is.
    """
    context = multiprocessing.get_context("spawn")
    try:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,))
        with safe_path():  # also for the process of multiprocessing that watches its resources
            process.start()
    except OSError as e:
        raise BackendError(f"the process that measures {name} cannot be started: {e.strerror or e}") from None
    there.close()  # of this process; so `recv` ends when the other one does

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            here.send((function, arguments))
            result, error = here.recv()
        except (EOFError, ConnectionError):
            process.join()
            cause = _cause(process.exitcode)
            raise BackendError(f"the process that measures {name} died ({cause}): is there enough memory?") from None
        if error is not None:
            raise error
        return result

    is_ready = False
    try:
        call(_do_nothing)
        is_ready = True
        if setup is not None:
            call(setup, *arguments)
        yield call
    except BaseException:
        if is_ready:
            process.terminate()
            process.join(STOP_SECONDS)
        process.kill()
        raise
    finally:
        here.close()
        process.join()


def _serve(pipe: Connection) -> None:
    """Answer calls until the pipe closes. An error keeps its traceback as a note. SIGTERM ends a call, which cleans up."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt; SIGINT may be ignored, as after `&`
    try:
        while True:
            message = pipe.recv_bytes()
            result: Any = None
            error: Exception | None = None
            try:
                function, arguments = pickle.loads(message)
                result = function(*arguments)
            except Exception as e:
                e.add_note(traceback.format_exc())
                error = e
            pipe.send((result, error))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        pass  # nobody waits for an answer


def _do_nothing() -> None:
    pass


def _cause(status: int | None) -> str:
    return signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
