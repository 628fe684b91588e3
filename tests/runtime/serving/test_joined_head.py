"""The head of an answer leaves with the first part of its body, and no part is lost or late."""

from __future__ import annotations

import asyncio

from stylert.runtime.serving.joined_head import JoinedHead

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Written:
    """A transport that records what is written."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.parts.append(data)

    def close(self) -> None:
        self.closed = True


def written(*calls: tuple[str, bytes | None]) -> Written:
    """A transport after calls by name. `wait` lets the event loop run."""
    transport = Written()

    async def run() -> None:
        joined = JoinedHead(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        for name, data in calls:
            if name == "wait":
                await asyncio.sleep(0.001)
            elif data is None:
                getattr(joined, name)()
            else:
                joined.write(data)

    asyncio.run(run())
    return transport


def test_head_and_body_are_one_part() -> None:
    assert written(("write", HEAD), ("write", b"body"), ("wait", None)).parts == [HEAD + b"body"]


def test_a_head_without_a_body_leaves_at_once() -> None:
    assert written(("write", HEAD), ("wait", None), ("write", b"body")).parts == [HEAD, b"body"]


def test_two_answers_one_after_the_other_keep_their_order() -> None:
    transport = written(("write", HEAD), ("write", HEAD), ("write", b"body"), ("wait", None))
    assert b"".join(transport.parts) == HEAD + HEAD + b"body"


def test_closing_writes_the_head_before() -> None:
    transport = written(("write", HEAD), ("close", None), ("wait", None))
    assert transport.parts == [HEAD]
    assert transport.closed


def test_other_attributes_are_those_of_the_transport() -> None:
    transport = Written()
    assert JoinedHead(transport, asyncio.new_event_loop()).closed is False  # type: ignore[arg-type]
