"""One answer per request, and the shortcut of paced streams: a whole HTTP chunk passes without waking the reader, but never
before what he holds.
"""

import asyncio
from typing import Any

import pytest

from gateway.backends.connection import Connection, Patience
from gateway.deadlines import Deadlines

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST, SECOND = b"data: first\n\n", b"data: second\n\n"


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


class Transport:
    """Takes everything and sends nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: False if name == "is_closing" else None


async def asked(first: bytes = framed(FIRST)) -> tuple[Connection, list[bytes]]:
    """A connection whose reader has taken the first event, and what the shortcut is offered from now on."""
    connection, offered = Connection(asyncio.get_running_loop(), Deadlines()), list[bytes]()
    connection.connection_made(Transport())  # type: ignore[arg-type]
    connection.send((b"x",), Patience(10, 10, by_events=True))
    connection.data_received(HEAD + first)
    await connection.head()
    await connection.read_pieces()

    def take(frame: bytes, event: bytes) -> bool:
        assert frame == framed(event)
        offered.append(event)
        return True

    connection.on_frame = take
    return connection, offered


async def waiting(connection: Connection) -> "asyncio.Task[list[bytes]]":
    reader = asyncio.ensure_future(connection.read_pieces())
    await asyncio.sleep(0)
    return reader


def test_a_whole_chunk_passes_while_the_reader_waits() -> None:
    async def work() -> None:
        connection, offered = await asked()
        reader = await waiting(connection)
        for _ in range(3):
            connection.data_received(framed(SECOND))
        await asyncio.sleep(0)
        assert offered == [SECOND] * 3 and not reader.done()
        connection.data_received(framed(SECOND)[:9])
        connection.data_received(framed(SECOND)[9:] + b"0\r\n\r\n")
        assert b"".join(await reader) == SECOND and len(offered) == 3, "the parser goes on where it stood"
        assert await connection.read_pieces() == [] and connection.complete

    asyncio.run(work())


def test_nothing_overtakes_what_the_reader_has_yet_to_pass_on() -> None:
    async def work() -> None:
        connection, offered = await asked()
        connection.data_received(framed(SECOND))  # the reader is busy: with a caller who takes nothing, say
        assert offered == [] and await connection.read_pieces() == [SECOND]
        reader = await waiting(connection)
        connection.data_received(framed(FIRST) + framed(SECOND))  # not one chunk: this wakes him
        connection.data_received(framed(SECOND))  # and this comes before he runs
        assert offered == [] and await reader == [FIRST, SECOND, SECOND]

    asyncio.run(work())


def test_what_is_not_exactly_one_chunk_at_the_right_place_is_parsed() -> None:
    async def work() -> None:
        for odd in (b"%X\r\n%s\r\n" % (30, b"data: " + b"x" * 22 + b"\n\n"), b"0d;a=b\r\n" + SECOND + b"\r\n"):
            connection, offered = await asked()
            reader = await waiting(connection)
            connection.data_received(odd)
            assert len(await reader) == 1 and offered == []
        connection, offered = await asked(framed(FIRST)[:-4])  # in the middle of an event
        reader = await waiting(connection)
        connection.data_received(framed(FIRST)[-4:])
        await reader
        reader = await waiting(connection)
        connection.data_received(framed(SECOND))
        assert await reader == [SECOND] and offered == [], "one that came in two does not say where it ended"

    asyncio.run(work())


@pytest.mark.parametrize("more", [b"H", b"HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nother", b"garbage"])
def test_what_comes_behind_an_answer_is_in_neither_this_one_nor_the_next(more: bytes) -> None:
    async def work() -> None:
        closed: list[str] = []
        transport = Transport()
        transport.abort = lambda: closed.append("abort")  # type: ignore[attr-defined]
        connection = Connection(asyncio.get_running_loop(), Deadlines())
        connection.connection_made(transport)  # type: ignore[arg-type]
        connection.send((b"x",), Patience(10, 10))
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmine" + more)
        await connection.head()
        assert connection.status == 200 and await connection.read_all(100) == b"mine"
        assert closed == ["abort"], "so that it is not used again"

    asyncio.run(work())
