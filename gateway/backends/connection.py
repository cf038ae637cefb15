"""One connection to a model server: a bare protocol on uvloop with httptools' response parser.

What arrives is kept as chunks until the relay takes it, all at once; beyond `_HIGH_WATER` unread bytes the socket is not
read, so a slow caller never makes memory grow.
"""

import asyncio
from typing import cast

import httptools

from gateway.deadlines import Deadlines
from tidegate.errors import UpstreamBroken, UpstreamError, UpstreamTimeout

_HIGH_WATER = 262_144
_MAX_HEAD_BYTES = 65_536
_SMALL_BYTES = 16_384  # copying this much is cheaper than a second buffer


class Connection(asyncio.Protocol):
    """Sends one request at a time and hands out its answer."""

    __slots__ = (
        "_body_bytes", "_deadlines", "_head_bytes", "_idle_limit_s", "_keep_alive", "_loop", "_parser", "_paused",
        "_transport", "_waiter", "chunks", "complete", "due", "error", "headers", "idle_since", "reused", "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        self._loop = loop
        self._deadlines = deadlines
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._paused = self._keep_alive = False
        self.due = self._idle_limit_s = 0.0
        self._head_bytes = self._body_bytes = 0
        self.reused = False
        self.idle_since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.complete = False
        self.error: UpstreamError | None = None

    # -- what the relay calls -------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes, *, first_byte_timeout_s: float, idle_timeout_s: float) -> None:
        """Starts a request; the limits are for the wait until the answer's head and for any later silence."""
        self.status, self.headers, self.chunks = 0, [], []
        self.complete, self.error = False, None
        self._head_bytes = self._body_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self._idle_limit_s = idle_timeout_s
        self.due = self._loop.time() + first_byte_timeout_s
        self._deadlines.add(self)
        assert self._transport is not None  # noqa: S101
        if len(body) < _SMALL_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

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
        """All of the body that has arrived since the last call; waits if nothing has; empty at the end.

        Raises:
            UpstreamError: cut, malformed or silent too long; what arrived before is handed out first.
        """
        while not self.chunks:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        self._body_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self.due = self._loop.time() + self._idle_limit_s
            self._transport.resume_reading()
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: as `read`, or longer than `max_bytes`.
        """
        if self.complete and self.error is None:
            return await self.read()
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > max_bytes:
                raise UpstreamBroken("the model server's answer is larger than the gateway passes on")
            parts.append(data)
        return b"".join(parts)

    def fail(self, error: UpstreamError) -> None:
        """Ends the exchange with `error` and closes the socket; the waiting reader, if any, sees it."""
        if self.error is None and not self.complete:
            self.error = error
        self.close()
        self._wake()

    def release(self) -> bool:
        """Ends the exchange; whether the connection may be used again."""
        self._deadlines.remove(self)
        if not self.complete or self.error is not None or self.is_closing or self._parser is None:
            return False
        self._parser = None
        return self._keep_alive

    def close(self) -> None:
        """Closes the socket at once; the model server sees it and stops generating."""
        self._deadlines.remove(self)
        if self._transport is not None:
            self._transport.abort()

    def overdue(self, now: float) -> None:
        """See `Limited`: silence is the model server's fault unless the caller has yet to take what is here."""
        if not self.status:
            self.fail(UpstreamTimeout("the model server did not begin to answer in time"))
        elif self._paused or self.chunks:
            self.due = now + self._idle_limit_s
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

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        parser = self._parser
        if parser is None or self.complete:
            self.close()  # nobody asked for this
            return
        if self.status:
            self.due = self._loop.time() + self._idle_limit_s
        else:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(UpstreamBroken("the model server's answer is not HTTP"))
            return
        if not self.status and self._head_bytes > _MAX_HEAD_BYTES:
            self.fail(UpstreamBroken("the model server's answer head is too large"))
            return
        if self._body_bytes > _HIGH_WATER and not self._paused and not self.complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
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

    def on_header(self, name: bytes, value: bytes) -> None:
        """One response header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there; interim (1xx) answers are passed over."""
        assert self._parser is not None  # noqa: S101
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self.due = self._loop.time() + self._idle_limit_s
        else:
            self.headers = []

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.chunks.append(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """The end of the answer."""
        if self.status and self._parser is not None:
            self._keep_alive = bool(self._parser.should_keep_alive())  # only here does the parser still know
            self.complete = True

    # -- inside ---------------------------------------------------------------------------------------------------

    def _ended_by_close(self) -> None:
        """A body without length or chunks ends with the connection; anything else was cut."""
        names = {name for name, _ in self.headers}
        if self.status and not names & {b"content-length", b"transfer-encoding"}:
            self.complete = True
        else:
            self.error = UpstreamBroken("the model server closed the connection before its answer was complete")

    def _wait(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
