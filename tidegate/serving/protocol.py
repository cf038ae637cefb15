"""HTTP/1.1 as every port of ours speaks it: httptools' parser, bounds, and nothing that two servers may read in two ways.

Refused before any application sees them: heads that are too large or too slow, transfer codings other than one `chunked`,
no `host`, a second value of a field that has one, request lines with more than single spaces. Trailers are dropped: they
must not become headers. Source: RFC 9112 sections 3, 3.2, 6.1 and 7.1.2.
Requests that come before the last is answered wait, unread, for their turn. An upgrade is not taken up.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from tidegate.errors import HeadTimeout, HeadTooLarge, InvalidRequest, Overloaded, TidegateError, render
from tidegate.serving.call import Call, header_lines

if TYPE_CHECKING:
    from tidegate.serving.server import Server

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 30.0
LINGER_S = 2.0
TAKE_TIMEOUT_S = 120.0
"""How long a client may take nothing of a response that waits for it."""
SOON_S = 1.0
"""Within this time a new connection is expected to be used, and one that was used to be used again."""
MAX_UNREAD_BYTES = 33_554_432
"""Of bodies that came ahead of their turn, on all connections together."""
MAX_WAITING = 32
"""Requests that may be sent on a connection before the first of them is answered."""
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}
_SINGLE = (
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"expect", b"host", b"origin",
    b"transfer-encoding", b"x-api-key",
)  # fmt: skip
"""Fields that servers act on and that have one value: of two, one server would take the first and another the last."""


class Http1(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_begins_head", "_deaf", "_drained", "_fields_bytes", "_head", "_headers", "_idle_bytes", "_in_head", "_lingers",
        "_parser", "_queue", "_reading", "_reading_paused", "_refusal", "_resumed", "_serving", "_since", "_taken_at", "_target",
        "_untaken_bytes", "loop", "server", "transport", "write_paused",
    )  # fmt: skip

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.loop = server.loop
        self.transport: asyncio.Transport
        self.write_paused = False
        self._parser: httptools.HttpRequestParser | None = self._new_parser()
        self._headers: list[tuple[bytes, bytes]] = []
        self._fields_bytes = 0
        self._target = b""
        self._head = b""
        """The bytes in which the request line of the current head stands."""
        self._begins_head = True
        """`_head` begins with that line, not with the end of another request."""
        self._in_head = True
        self._since = self.loop.time()
        """Loop time since when a head, or the next request, is waited for."""
        self._idle_bytes = 0
        """Bytes since there was last something for an application: of a head, of trailers, of chunks that hold nothing."""
        self._untaken_bytes = 0
        """Of an answer, when it was last looked."""
        self._taken_at = 0.0
        """Loop time of the last look at which the client had taken some of them."""
        self._serving: Call | None = None
        self._reading: Call | None = None
        """The call whose body comes now, or came last."""
        self._resumed: Call | None = None
        """The call whose head has been parsed, and whose body another parser is about to see."""
        self._queue: deque[Call] = deque()
        self._reading_paused = self._deaf = self._lingers = False
        self._refusal: TidegateError | None = None
        self._drained: asyncio.Future[None] | None = None

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self.server.connections.add(self)
        if len(self.server.connections) > self.server.max_connections:
            self.server.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.server.connections.discard(self)
        self._deaf = True
        for call in (self._serving, *self._queue):
            if call is not None:
                call.hang_up()
        self._serving = self._reading = None
        self._queue.clear()
        self._parser = None  # it holds this object
        self.resume_writing()

    def eof_received(self) -> None:
        """See asyncio.Protocol; the transport closes itself."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._deaf or self._parser is None:
            return
        self._idle_bytes += len(data)
        if self._head:
            self._head += data
        else:
            self._head, self._begins_head = data, self._reading is None
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or InvalidRequest("This is not a valid HTTP request."))
        if self._idle_bytes > MAX_HEAD_BYTES and not self._deaf:
            self._refuse(HeadTooLarge(f"The head of the request, or what is no body, exceeds {MAX_HEAD_BYTES} bytes."))
        self._head = self._head[-MAX_HEAD_BYTES:] if self._in_head else b""

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- httptools ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head, self._since = True, self.loop.time()
        self._headers, self._fields_bytes, self._target = [], 0, b""

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._target += url
        self._fields_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._fields_bytes += len(name) + len(value)
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """See httptools; what is raised here ends in `_refuse`."""
        self._in_head, self._idle_bytes = False, 0
        if self._resumed is not None:
            self._reading, self._resumed = self._resumed, None
            return
        headers, parser = self._headers, self._parser
        assert parser is not None  # noqa: S101 - it calls
        self._headers = []  # trailers end here
        fields, version = dict(headers), parser.get_http_version()
        modern = version == "1.1"
        method = parser.get_method()
        self._refusal = self._fault(headers, fields, modern)
        if self._refusal is None and not (version in ("1.0", "1.1") and self._has_single_spaces(method)):
            self._refusal = InvalidRequest("The request line must be a method, a target and HTTP/1.1, one space apart.")
        self._begins_head = False
        if self._refusal is not None:
            raise self._refusal
        call = self._reading = Call(
            self,
            method.decode("ascii"),
            self._target,
            headers,
            fields,
            modern=modern,
            keep_alive=modern and parser.should_keep_alive(),
        )
        if self._serving is None:
            self._serving = call
            self.server.begin(call)
        elif len(self._queue) < MAX_WAITING:
            self._queue.append(call)
            self.pause_reading()
        else:
            raise InvalidRequest(f"More than {MAX_WAITING} requests wait on this connection.")

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._idle_bytes = 0
        if self._reading is None or self._reading.answered:
            return
        if self._queue and self.server.unread_bytes > MAX_UNREAD_BYTES:
            self._refusal = Overloaded("Too much is sent ahead of its turn. Wait for each response.")
            raise self._refusal
        self._reading.feed(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        passed_over = self._parser is not None and self._parser.should_upgrade()
        if self._reading is not None and self._reading.more and not passed_over:
            self._reading.end_body()

    # -- what calls and the server ask for ------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Leaves what comes with the kernel, and so with the caller."""
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Goes on reading, unless requests wait for their turn."""
        if self._reading_paused and not self._queue and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    async def writable(self) -> None:
        """Waits until the caller takes what was written, or has gone."""
        while self.write_paused:
            self._drained = self.loop.create_future()
            await self._drained

    def on_answered(self, call: Call) -> None:
        """The answer is complete: on to the next request, or the end of the connection."""
        self._serving = None
        self._since, self._untaken_bytes = self.loop.time(), 0
        if self._reading is call and not call.more:
            self._reading = None  # nothing of it is needed until the next request
        if not call.keep_alive:
            self._end(unread=call.more or self._deaf)
            return
        if self._queue:
            self._serving = self._queue.popleft()
            self.server.begin(self._serving)
        if self._reading_paused:
            self.resume_reading()

    def _end(self, *, unread: bool) -> None:
        """Closes; but while a body still comes in, a closed socket would reset what the caller has yet to read."""
        self._deaf = True
        if not unread or self.transport.is_closing():
            self.transport.close()
            return
        self._lingers = True
        self._reading_paused = False
        self.transport.write_eof()
        self.transport.resume_reading()

    def look(self, now: float, keep_alive_s: float) -> None:
        """For the server, every now and then: ends what has waited for too long."""
        if self.transport.is_closing():
            return
        waited_s = now - self._since
        if self._serving is not None:
            self._look_at_reader(now)
        elif self._lingers:
            if waited_s > LINGER_S:
                self.transport.abort()
        elif self._in_head:
            if waited_s > HEAD_TIMEOUT_S:
                self._end_head()
        elif self._reading is not None and self._reading.more:
            if waited_s > LINGER_S:  # a request that was answered early; its short body was to come at once
                self.transport.close()
        elif waited_s > keep_alive_s:
            self._end_idle(now)

    def _look_at_reader(self, now: float) -> None:
        left = self.transport.get_write_buffer_size() if self.write_paused else 0
        if not left or left != self._untaken_bytes:
            self._untaken_bytes, self._taken_at = left, now
        elif now - self._taken_at > TAKE_TIMEOUT_S:
            self.transport.abort()

    def _end_head(self) -> None:
        if self._idle_bytes:
            self._refuse(HeadTimeout("The head of the request did not arrive in time."))
        else:
            self.transport.close()  # nobody has asked for anything

    def _end_idle(self, now: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left != self._untaken_bytes:  # of the last answer: its caller is slow, but takes it
            self._since, self._untaken_bytes = now, left
        elif left:
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def can_be_closed(self) -> bool:
        """Whether no request is under way here, nor the last words of a refusal."""
        return self._serving is None and not self._lingers

    @property
    def idle_rank(self) -> tuple[bool, bool, float]:
        """Its place among those to be closed first: those without a whole head, then by how long nothing was asked."""
        return self.untaken_bytes > 0, not self._in_head, self._since

    @property
    def untaken_bytes(self) -> int:
        """Of responses: what the client has yet to take, and the process holds for it."""
        size: int = self.transport.get_write_buffer_size()
        return size

    def turn_away(self) -> None:
        """Refuses a connection that there is no room for, before anything was asked on it."""
        self._deaf = True
        self._write_error(Overloaded("The gateway holds as many connections as it can. Try again."))
        self._end(unread=True)

    def may_be_asked(self, now: float, *, again: bool) -> bool:
        """Whether a request may be on its way: the connection is new, a head has begun, or (`again`) it was just used."""
        return self._serving is None and (again or self._in_head) and now - self._since < SOON_S

    def close_if_idle(self) -> None:
        """Ends a connection on which nothing is asked."""
        if self._serving is None:
            self.transport.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        while self._parser is not None:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._passing_over_the_upgrade(data[upgrade.args[0] :])

    def _passing_over_the_upgrade(self, rest: bytes) -> bytes:
        """What to parse in place of `rest`, in which the parser sees another protocol: the body of a request as any other.

        Java's client asks for HTTP/2 with every first request (RFC 9113 section 3.1, RFC 7540 section 3.2).
        """
        call = self._resumed = self._reading
        self._parser = self._new_parser()
        fields = {} if call is None else call.fields
        framing = [
            b"%s: %s\r\n" % (name, fields[name]) for name in (b"content-length", b"transfer-encoding") if name in fields
        ]
        return b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" + rest

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # or what comes behind a request that says `connection: close` would fail that request
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _fault(
        self, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes], modern: bool
    ) -> TidegateError | None:
        if len(headers) > MAX_HEADERS or self._fields_bytes > MAX_HEAD_BYTES:
            return HeadTooLarge(
                f"The head of the request has more than {MAX_HEADERS} fields or {MAX_HEAD_BYTES} bytes."
            )
        if b"#" in self._target or (modern and b"host" not in fields):
            return InvalidRequest("The request must have one `host` header, and no fragment in its target.")
        coding = fields.get(b"transfer-encoding")
        if coding is not None and not (modern and coding.strip().lower() == b"chunked"):
            return InvalidRequest("The only transfer coding taken is one `chunked`, in HTTP/1.1.")
        if len(fields) < len(headers):
            names = [name for name, _ in headers]
            twice = [name.decode() for name in _SINGLE if names.count(name) > 1]
            if twice:
                return InvalidRequest(f"The request must have one `{twice[0]}` header at most.")
        return None

    def _has_single_spaces(self, method: bytes) -> bool:
        """Whether the request line is as RFC 9112 section 3 has it; the parser skips more spaces.

        The parser does not say where a pipelined request begins, so its line is only looked for.
        """
        line = b"%s %s HTTP/1." % (method, self._target)
        return self._head.lstrip(b"\r\n").startswith(line) if self._begins_head else line in self._head

    def _refuse(self, error: TidegateError) -> None:
        """The end of the connection, told in OpenAI's shape; after the answers that can still be given."""
        self._deaf = True
        serving, reading = self._serving, self._reading
        if serving is not None and (serving is not reading or not reading.more):
            if self._queue and self._queue[-1].more:
                self._queue.pop().forget_body()
            (serving, *self._queue)[-1].keep_alive = False
            return
        if serving is not None and serving.started:
            self.transport.close()
            return
        self._write_error(error)
        self.transport.close()

    def _write_error(self, error: TidegateError) -> None:
        status, headers, body = render(error)
        head = b"HTTP/1.1 %d %s\r\n%s" % (status, _REASONS[status], header_lines(headers))
        self.transport.write(b"%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (head, len(body), body))
