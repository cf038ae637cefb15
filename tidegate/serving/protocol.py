"""HTTP/1.1 as every port of ours speaks it: uvicorn's protocol with bounds, and without what two servers may read in two ways.

Refused before any application sees them: heads that are too large or too slow, transfer codings other than one `chunked`,
none or several `host`. Trailers are dropped: they must not become headers. Source: RFC 9112 sections 3.2, 6.1 and 7.1.2.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidegate.errors import HeadTimeout, HeadTooLarge, InvalidRequest, TidegateError, render

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 30.0
ABORT = "tidegate.abort"
"""ASGI extension: `now` ends the connection without waiting for a caller who takes nothing."""
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class StrictHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._idle_bytes = 0
        """Bytes since there was last something for an application: of a head, of trailers, of chunks that hold nothing."""
        self._untaken_bytes = 0
        """Of an answer, when it was last looked."""
        self._refusal: TidegateError | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._idle_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadTooLarge(f"The head of the request, or what is no body, exceeds {MAX_HEAD_BYTES} bytes."))
        elif self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools; what is raised here ends in `send_400_response`."""
        self._in_head, self._idle_bytes = False, 0
        self._stop_timer()
        self._refusal = self._fault()
        if self._refusal is not None:
            raise self._refusal
        self.scope["extensions"] = {ABORT: {"now": self.transport.abort}}
        super().on_headers_complete()
        self.headers = []  # trailers end here

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._idle_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """See uvicorn: the refusal in OpenAI's shape, and the end of the connection."""
        self._refuse(self._refusal or InvalidRequest("This is not a valid HTTP request."))

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn: the connection is idle. One whose caller takes nothing of the last answer is ended, not waited for."""
        left = self.transport.get_write_buffer_size()
        if not left:
            super().timeout_keep_alive_handler()
        elif left == self._untaken_bytes:
            self.transport.abort()
        else:
            self._untaken_bytes = left
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _fault(self) -> TidegateError | None:
        headers = self.headers
        if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
            return HeadTooLarge(
                f"The head of the request has more than {MAX_HEADERS} fields or {MAX_HEAD_BYTES} bytes."
            )
        modern = self.parser.get_http_version() == "1.1"
        codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
        if codings and not (codings == [b"chunked"] and modern):
            return InvalidRequest("The only transfer coding taken is one `chunked`, in HTTP/1.1.")
        hosts = sum(name == b"host" for name, _ in headers)
        if hosts > 1 or (modern and not hosts):
            return InvalidRequest("The request must have one `host` header.")
        return None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._in_head or self.transport.is_closing():
            return
        if self._idle_bytes:
            self._refuse(HeadTimeout("The head of the request did not arrive in time."))
        else:
            self.transport.close()  # nobody has asked for anything

    def _refuse(self, error: TidegateError) -> None:
        status, headers, body = render(error)
        lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\n%sconnection: close\r\n\r\n%s" % (status, _REASONS[status], lines, body)
        )
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
