"""One connection to a model server: a bare protocol on uvloop with httptools' response parser.

What arrives is kept as chunks until the relay takes it, all at once; beyond `_HIGH_WATER` unread bytes the socket is not
read, so a slow caller never makes memory grow.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import httptools

from gateway.deadlines import Deadlines
from tidegate.errors import AnswerTooLarge, UpstreamBroken, UpstreamError, UpstreamTimeout

_HIGH_WATER = 65_536
_SOCKET_BYTES = 65_536  # what the kernel may hold as well; left alone, it takes up to 6 MB for a reader who is slow
_MAX_HEAD_BYTES = 65_536
_LONGEST_SIZE = 8  # digits of a chunk's length, and its line end
_SMALL_BYTES = 16_384  # copying this much is cheaper than a second buffer


Buffer = bytes | memoryview
OnQuiet = Callable[[], Awaitable[None]]
OnFrame = Callable[[bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what."""

    first_s: float
    """For the answer's head; for the first event where `by_events`."""
    idle_s: float
    """For whatever comes next: bytes, or events where `by_events`."""
    quiet_s: float = 0.0
    """After how long a silence the one who waits is given a chance to say something; 0 is never."""
    by_events: bool = False
    """Only what the reader calls an event counts: see `Connection.moved`."""


class Connection(asyncio.Protocol):
    """Sends one request at a time and hands out its answer."""

    __slots__ = (
        "_between", "_body_bytes", "_deadlines", "_head_bytes", "_keep_alive", "_limit", "_loop", "_moved", "_on_quiet",
        "_parser", "_patience", "_paused", "_quiet", "_transport", "_waiter", "_write_paused", "chunks", "complete", "due",
        "error", "headers", "idle_since", "on_body", "on_frame", "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        self._loop = loop
        self._deadlines = deadlines
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._paused = self._keep_alive = self._moved = self._quiet = self._write_paused = False
        self._patience = Patience(0, 0)
        self._on_quiet: OnQuiet | None = None
        self.due = self._limit = 0.0
        self._head_bytes = self._body_bytes = 0
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case; of a name that comes twice the last."""
        self.chunks: list[bytes] = []
        """Of the body, as the parser gives them out: a burst is many."""
        self.on_body = self.chunks.append
        self.complete = False
        self.error: UpstreamError | None = None
        self.on_frame: OnFrame | None = None
        """Offered a whole HTTP chunk with one event in it, and that event; it is done with where the answer is True, else it
        is read as usual. Offered only while the reader waits, so that it overtakes nothing."""
        self._between = False
        """The parser stands between two chunks, so that it need not see the next one."""

    # -- what the relay calls -------------------------------------------------------------------------------------

    def send(
        self,
        parts: Sequence[Buffer],
        patience: Patience,
        on_quiet: OnQuiet | None = None,
        quiet_for_s: float = 0.0,
    ) -> None:
        """Starts a request of these bytes; `on_quiet` is awaited in `head` and `read` after every long silence.

        It has been quiet for `quiet_for_s` already.

        Raises:
            UpstreamBroken: the model server has closed the connection.
        """
        if self.is_closing:
            raise UpstreamBroken("the model server closed the connection")
        self.status, self.headers, self.chunks = 0, {}, []
        self.on_body = self.chunks.append
        self.complete, self.error, self._moved = False, None, False
        self._head_bytes = self._body_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self._patience, self._on_quiet, self.on_frame, self._between = patience, on_quiet, None, False
        self._wait_at_most(patience.first_s, quiet_for_s)
        self._deadlines.add(self)
        assert self._transport is not None  # noqa: S101
        if sum(map(len, parts)) < _SMALL_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    async def send_more(self, pieces: AsyncGenerator[bytes, None], *, chunked: bool) -> None:
        """Sends the rest of the body as it comes, no faster than it is taken; ends early where the answer comes early.

        Raises:
            UpstreamError: the connection failed meanwhile. What `pieces` raises comes out as it is.
        """
        async with aclosing(pieces) as source:
            while (piece := await self._next_of(source)) is not None:
                if not await self._write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece):
                    return
        if await self._write(b"0\r\n\r\n" if chunked else b""):
            self._wait_at_most(self._patience.first_s)

    async def _next_of(self, source: AsyncGenerator[bytes, None]) -> bytes | None:
        """The next piece of the body; None at its end, or where an answer or a failure comes before the piece does."""
        coming = asyncio.ensure_future(anext(source, None))
        cut: asyncio.CancelledError | None = None
        try:
            while not coming.done() and not self.status and self.error is None:
                self._waiter = self._loop.create_future()
                await asyncio.wait((coming, self._waiter), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            cut = error
        if cut is None and coming.done():
            return coming.result()
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)  # so that `source` can be closed
        if cut is not None:
            raise cut
        return None

    async def _write(self, data: bytes) -> bool:
        """Whether the model server still listens; one that takes nothing for too long has failed."""
        self._wait_at_most(self._patience.first_s)
        while self._write_paused and not self.status and self.error is None:
            self._wait_at_most(self._patience.idle_s)
            await self._wait()
        if self.error is not None:
            raise self.error
        if self.status or self._transport is None:
            return False
        self._transport.write(data)
        return True

    async def head(self) -> None:
        """Waits for status and headers.

        Raises:
            UpstreamError: the connection failed, was silent too long, or sent something else than HTTP.
        """
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._wait()

    async def read(self) -> bytes:
        """As `read_pieces`, in one."""
        return b"".join(await self.read_pieces())

    async def read_pieces(self) -> list[bytes]:
        """All of the body that has arrived since the last call; waits if nothing has; empty at the end.

        Raises:
            UpstreamError: cut, malformed or silent too long; what arrived before is handed out first.
        """
        while not self.chunks:
            if self.complete:
                return []
            if self.error is not None:
                raise self.error
            if self._paused and self._transport is not None:  # not before: what is taken may still wait for its reader
                self._paused = False
                self._wait_at_most(self._patience.idle_s)
                self._transport.resume_reading()
            await self._wait()
        pieces = self.chunks.copy()
        self.chunks.clear()  # and not another list, for the parser appends to this one
        self._body_bytes = 0
        return pieces

    def moved(self) -> float:
        """Notes that an event has arrived: the next may take its own time. Returns the time, of the loop's clock."""
        self._moved = True
        return self._wait_at_most(self._patience.idle_s)

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: as `read`, or longer than `max_bytes`.
        """
        parts: list[bytes] = []
        size = 0
        while pieces := await self.read_pieces():
            size += sum(map(len, pieces))
            if size > max_bytes:
                raise AnswerTooLarge("the model server's answer is larger than the gateway passes on")
            parts += pieces
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fail(self, error: UpstreamError) -> None:
        """Ends the exchange with `error` and closes the socket; the waiting reader, if any, sees it."""
        if self.error is None and not self.complete:
            self.error = error
        self.close()
        self._wake()

    def release(self) -> bool:
        """Ends the exchange; whether the connection may be used again."""
        self._deadlines.remove(self)
        self._on_quiet = self.on_frame = None
        if not self.complete or self.error is not None or self.is_closing or self._parser is None:
            return False
        self._parser = None
        assert self._transport is not None  # noqa: S101 - or it would be closing
        return self._keep_alive and not self._transport.get_write_buffer_size()  # an answer may come before all is sent

    def close(self) -> None:
        """Closes the socket at once; the model server sees it and stops generating."""
        self._deadlines.remove(self)
        if self._transport is not None:
            self._transport.abort()

    def overdue(self, now: float) -> None:
        """See `Limited`: silence is the model server's fault unless the caller has yet to take what is here."""
        if self.status and (self._paused or self.chunks):
            self._wait_at_most(self._patience.idle_s)
        elif now < self._limit:
            self.due = min(now + self._patience.quiet_s, self._limit)
            self._quiet = True
            self._wake()
        elif not self.status or (self._patience.by_events and not self._moved):
            self.fail(UpstreamTimeout("the model server did not begin to answer in time"))
        elif not self.complete:
            self.fail(UpstreamTimeout("the model server fell silent in the middle of its answer"))

    @property
    def is_closing(self) -> bool:
        """Whether the socket is closed or closing."""
        return self._transport is None or self._transport.is_closing()

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        if (raw := transport.get_extra_info("socket")) is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        parser = self._parser
        if parser is None or self.complete:
            self.close()  # nobody asked for this
            return
        if self._between and self._is_awaited and self._pass_frame(data):
            return
        if not self.status:
            self._head_bytes += len(data)
        elif not self._patience.by_events:
            self._wait_at_most(self._patience.idle_s)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(UpstreamBroken("the model server's answer is not HTTP"))
            return
        if not self.status and self._head_bytes > _MAX_HEAD_BYTES:
            self.fail(UpstreamBroken("the model server's answer head is too large"))
            return
        self._body_bytes += len(data)
        if self._body_bytes > _HIGH_WATER and not self._paused and not self.complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._patience.by_events:
            self._between = _ends_with_a_chunk(data, self.chunks)
        self._wake()

    @property
    def _is_awaited(self) -> bool:
        return not self.chunks and self._waiter is not None and not self._waiter.done()

    def _pass_frame(self, data: bytes) -> bool:
        begin = data.find(b"\r\n", 0, _LONGEST_SIZE) + 2
        whole = data[: begin - 2] == b"%x" % (len(data) - begin - 2) and data.endswith(b"\n\n\r\n")
        return whole and self.on_frame is not None and self.on_frame(data, data[begin:-2])

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._write_paused = False
        self._wake()

    def eof_received(self) -> bool:
        """See asyncio.Protocol; the transport closes itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._deadlines.remove(self)
        self._transport = None
        if self._parser is not None and not self.complete and self.error is None:
            self._ended_by_close()
        self._wake()

    # -- httptools callbacks --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Nothing may come behind an answer: nobody has asked for it, and it must not end up in this answer or the next."""
        if self.complete:
            raise UpstreamBroken("the model server sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One response header."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there; interim (1xx) answers are passed over."""
        assert self._parser is not None  # noqa: S101
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            if not self._patience.by_events:
                self._wait_at_most(self._patience.idle_s)
        else:
            self.headers = {}

    def on_message_complete(self) -> None:
        """The end of the answer."""
        if self.status and self._parser is not None:
            self._keep_alive = bool(self._parser.should_keep_alive())  # only here does the parser still know
            self.complete = True

    # -- inside ---------------------------------------------------------------------------------------------------

    def _ended_by_close(self) -> None:
        """A body without length or chunks ends with the connection; anything else was cut."""
        if self.status and not self.headers.keys() & {b"content-length", b"transfer-encoding"}:
            self.complete = True
        else:
            self.error = UpstreamBroken("the model server closed the connection before its answer was complete")

    def _wait_at_most(self, seconds: float, quiet_for_s: float = 0.0) -> float:
        now, quiet_s = self._loop.time(), self._patience.quiet_s
        self._limit = now + seconds
        self.due = now + min(seconds, quiet_s - quiet_for_s) if quiet_s else self._limit
        self._deadlines.hasten(self.due)
        return now

    async def _wait(self) -> None:
        """Until there is something new, or it has been quiet for long."""
        self._waiter = self._loop.create_future()
        await self._waiter
        if self._quiet:
            self._quiet = False
            if self._on_quiet is not None:
                await self._on_quiet()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _ends_with_a_chunk(data: bytes, pieces: Sequence[bytes]) -> bool:
    """Whether the end of `data` is the end of an HTTP chunk, of which the last piece is what the parser gave out.

    A piece that only looks like that would end in what it begins with, and no event does.
    """
    last = pieces[-1] if pieces else b""
    return last.startswith(b"data: ") and data.endswith(b"\n\n\r\n") and data[-len(last) - 2 : -2] == last
