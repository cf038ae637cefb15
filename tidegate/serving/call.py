"""One HTTP request and the answer to it, as an application sees them: by bare methods, or by ASGI's three arguments.

The bare methods are for the hot path: no message dictionaries, no header objects, head and first bytes in one write.
"""

import asyncio
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from tidegate.serving.protocol import Http1

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]

HIGH_WATER_BYTES = 65_536
"""Of a body that the application has yet to take; beyond it the socket is not read."""
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_WITHOUT_BODY = frozenset({204, 304})


class Date:
    """The `date` header, made once a second (RFC 9110 section 6.6.1)."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """The complete line."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)).encode()
        return self._line


class Call:
    """Built by the protocol once a request's head is there."""

    __slots__ = (
        "_connection", "_expects", "_head", "_left", "_pieces", "_size", "_told", "_waiters", "answered", "chunked",
        "fields", "gone", "headers", "keep_alive", "method", "modern", "more", "on_gone", "on_stop", "path", "started", "target",
        "task",
    )  # fmt: skip

    def __init__(
        self,
        connection: "Http1",
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        fields: dict[bytes, bytes],
        *,
        modern: bool,
        keep_alive: bool,
    ) -> None:
        self._connection = connection
        self.method = method
        self.target = target
        """As it stands in the request line."""
        self.path = _path(target)
        """Decoded, without the query."""
        self.headers = headers
        """Names in lower case."""
        self.fields = fields
        """The same; of a name that comes twice the last."""
        self.modern = modern
        """HTTP/1.1, so the answer may come in chunks."""
        self.keep_alive = keep_alive
        self.task: asyncio.Task[None] | None = None
        self.on_gone: Callable[[], None] | None = None
        """Called once if the caller hangs up before the answer is complete."""
        self.on_stop: Callable[[], None] | None = None
        """Called in place of cancelling the task where the process stops and the time to finish is over."""
        self.more = True
        """Whether there may be more of the body than has come."""
        self.gone = self.started = self.answered = False
        self._expects = modern and fields.get(b"expect", b"").lower() == b"100-continue"
        self._pieces: list[bytes] = []
        self._size = 0
        self._told = False
        self._waiters: list[asyncio.Future[None]] = []
        self._head = b""
        self._left: int | None = None
        self.chunked = False
        """The answer goes out in HTTP chunks."""

    # -- the request's body ---------------------------------------------------------------------------------------

    def whole_body(self) -> bytes | None:
        """The body, if all of it is here and none was taken."""
        if self.more or self._told or self.gone:
            return None
        self._told = True
        return self._take()

    async def receive(self) -> Message:
        """See ASGI: pieces of the body, then the end of the exchange."""
        while not (self.gone or self.answered):
            if not self._told and (self._pieces or not self.more):
                self._told = not self.more
                return {"type": "http.request", "body": self._take(), "more_body": self.more}
            if self._expects and not self.started:
                self._expects = False
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            waiter: asyncio.Future[None] = self._connection.loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return {"type": "http.disconnect"}

    def _take(self) -> bytes:
        pieces = self._pieces
        self.forget_body()
        self._connection.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def forget_body(self) -> None:
        """Nobody will take what has come of the body, or somebody just has."""
        self._connection.server.unread_bytes -= self._size
        self._pieces, self._size = [], 0

    def feed(self, piece: bytes) -> None:
        """For the protocol: more of the body has come."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._connection.server.unread_bytes += len(piece)
        if self._size > HIGH_WATER_BYTES:
            self._connection.pause_reading()
        if self._waiters:
            self._wake()

    def end_body(self) -> None:
        """For the protocol: the body is complete."""
        self.more = False
        if self._waiters:
            self._wake()

    def hang_up(self) -> None:
        """For the protocol: the caller has gone."""
        self.forget_body()
        if not self.answered:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- the answer -----------------------------------------------------------------------------------------------

    def start(self, status: int, lines: bytes, length: int | None = None) -> None:
        """Begins the answer; its head goes out with its first bytes. `lines` are complete header lines that are known to
        be well formed, without `content-length`, which is made of `length`; None is a stream.
        """
        self.started, self._left = True, length
        keep = self.keep_alive and not self._connection.server.closing
        if self.more and not self._rest_is_short():
            keep = False
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.modern and self.method != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
            keep = keep and (self.method == "HEAD" or status in _WITHOUT_BODY)
        if not keep:
            self.keep_alive = False
            framing += b"connection: close\r\n"
        self._head = b"".join((_status_line(status), self._connection.server.date.line(), lines, framing, b"\r\n"))

    def _rest_is_short(self) -> bool:
        """Whether the connection can outlive a body that nobody will read: little is left, and it was not held back."""
        declared = self.fields.get(b"content-length", b"")
        return not self._expects and declared.isdigit() and int(declared) <= HIGH_WATER_BYTES

    @property
    def blocked(self) -> bool:
        """Whether the caller takes nothing at the moment: await `writable` before more is written."""
        return self._connection.write_paused

    async def writable(self) -> None:
        """Waits until the caller takes what was written, or has gone."""
        await self._connection.writable()

    def flush(self) -> None:
        """Sends the head by itself, if it waits for the first bytes."""
        if self._head and not self._lost():
            self._connection.transport.write(self._head)
            self._head = b""

    def write(self, data: bytes) -> None:
        """Sends a piece of the answer; silently nothing if the caller has gone."""
        if not data or self._lost():
            return
        head, self._head = self._head, b""
        if self.chunked:
            self._connection.transport.write(b"%s%x\r\n%s\r\n" % (head, len(data), data))
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0 and self.method != "HEAD":
                raise RuntimeError("the answer is longer than it said")
        self._connection.transport.write(head if self.method == "HEAD" else head + data)

    def write_frame(self, frame: bytes) -> None:
        """Sends what is a complete HTTP chunk already; the answer must be `chunked`, and its head must have gone out."""
        if not self._lost():
            self._connection.transport.write(frame)

    def end(self, data: bytes = b"") -> None:
        """Sends the last piece and completes the answer."""
        if self._lost():
            return
        if self.chunked:
            head, self._head = self._head, b""
            last = b"%s%x\r\n%s\r\n0\r\n\r\n" % (head, len(data), data) if data else head + b"0\r\n\r\n"
            self._connection.transport.write(last)
        else:
            self.write(data)
            self.flush()
            if self._left and self.method != "HEAD":
                raise RuntimeError("the answer is shorter than it said")
        self.answered = True
        if self._size:
            self.forget_body()
        if self._waiters:
            self._wake()
        self._connection.on_answered(self)

    def _lost(self) -> bool:
        """Nothing can be written: the caller has gone, or the connection is about to end."""
        return self.gone or self._connection.transport.is_closing()

    def abort(self) -> None:
        """Ends the connection without waiting for a caller who takes nothing."""
        self._connection.transport.abort()

    # -- ASGI -----------------------------------------------------------------------------------------------------

    def scope(self) -> Scope:
        """See ASGI."""
        transport = self._connection.transport
        url: Any = httptools.parse_url(self.target)  # its stubs know no None
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1" if self.modern else "1.0",
            "server": transport.get_extra_info("sockname")[:2],
            "client": (transport.get_extra_info("peername") or ("", 0))[:2],
            "scheme": "http",
            "method": self.method,
            "root_path": "",
            "path": self.path,
            "raw_path": url.path or b"",
            "query_string": url.query or b"",
            "headers": self.headers,
            "state": {},
        }

    async def send(self, message: Message) -> None:
        """See ASGI."""
        if self.blocked and not self.gone:
            await self.writable()
        if self.gone:
            return
        if message["type"] == "http.response.start" and not self.started:
            self._start_as_asked(message)
        elif message["type"] == "http.response.body" and self.started and not self.answered:
            if message.get("more_body"):
                self.write(message.get("body", b""))
            else:
                self.end(message.get("body", b""))
        else:
            raise RuntimeError(f"{message['type']!r} is not what comes next in this answer")

    def _start_as_asked(self, message: Message) -> None:
        length: int | None = None
        lines: list[bytes] = []
        for name, value in message.get("headers", ()):
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise RuntimeError("a header of the answer is malformed")
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            elif lower == b"connection" and value.lower() == b"close":
                self.keep_alive = False
            elif lower != b"transfer-encoding":
                lines += [lower, b": ", value, b"\r\n"]
        self.start(message["status"], b"".join(lines), length)
        self._connection.loop.call_soon(self.flush)  # by then the first bytes are there, or will be long


def _status_line(status: int) -> bytes:
    """The first line of a response; HTTP needs no reason phrase for a status that it does not define."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers that are known to be well formed, as `Call.start` takes them."""
    return b"".join([f"{name}: {value}\r\n".encode() for name, value in headers])


def is_encoded(target: bytes) -> bool:
    """Whether the path of `target` has escapes (`%2F`), which proxies in front may not have read as their letters."""
    return b"%" in target.partition(b"?")[0]


def _path(target: bytes) -> str:
    """The decoded path of a request target.

    Raises:
        httptools.HttpParserInvalidURLError, UnicodeDecodeError: it cannot be read.
    """
    if not target.startswith(b"/") or b"?" in target or b"#" in target:
        url: Any = httptools.parse_url(target)
        target = url.path or b""
    path = target.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path
