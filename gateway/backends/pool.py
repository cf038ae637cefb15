"""Keep-alive connections to one model server."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.backends.connection import Buffer, Connection, OnQuiet, Patience
from gateway.deadlines import Deadlines
from tidegate.config.settings import RelaySettings
from tidegate.errors import UpstreamBroken, UpstreamUnavailable

MAX_IDLE = 1024


@dataclass(frozen=True, slots=True)
class More:
    """The rest of a body that is not here yet."""

    pieces: AsyncGenerator[bytes, None]
    chunked: bool
    """Whether each piece is framed, because nobody has said how long the whole will be."""


class Pool:
    """Opens connections to `url` and keeps the idle ones, youngest first."""

    def __init__(self, url: str, settings: RelaySettings, address: str | None = None) -> None:
        """With an `address`, connections go there; the certificate must still be the URL's host's."""
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._address = address or self._host
        self._port = parts.port or (443 if self._tls else 80)
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._deadlines = Deadlines()
        self._closed = False
        self.netloc = parts.netloc
        self.certificate_expires: float | None = None
        """When the certificate that was shown last ends, in seconds since 1970; None before a TLS connection."""

    def _take_idle(self) -> Connection | None:
        oldest = self._loop.time() - self._settings.pool_idle_s
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closing and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def open(self) -> Connection:
        """A fresh connection.

        Raises:
            UpstreamUnavailable: refused, unresolvable, TLS failed, or not open within `connect_timeout_s`.
        """
        loop = self._loop
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop, self._deadlines),
                    self._address,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError as error:
            raise UpstreamUnavailable(
                "the model server did not accept a connection in time", code="upstream_connect_timeout"
            ) from error
        except (OSError, ssl.SSLError) as error:
            raise UpstreamUnavailable(f"the model server cannot be reached ({type(error).__name__})") from error
        if self._tls:
            ends = transport.get_extra_info("peercert")["notAfter"]
            self.certificate_expires = ssl.cert_time_to_seconds(ends)
        return connection

    async def exchange(
        self,
        parts: Sequence[Buffer],
        patience: Patience,
        *,
        on_quiet: OnQuiet | None = None,
        quiet_for_s: float = 0.0,
        replay: bool = True,
        more: More | None = None,
    ) -> Connection:
        """Sends a request and returns the connection once the answer's head is there; the caller gives it back.

        With `more` the body goes on, and nothing can be sent twice: then the connection is a fresh one.

        A pooled connection that turns out dead before the first answer byte is replaced once by a fresh one: the server
        closed it while idle and has hardly read the request. Where doing it twice would be wrong, `replay` forbids that.

        Raises:
            UpstreamError: nothing came back that could be relayed.
        """
        idle = self._take_idle() if more is None else None
        if idle is not None:
            try:
                return await self._send(idle, parts, patience, on_quiet, quiet_for_s)
            except UpstreamBroken:
                if not replay or idle.status or idle.chunks:
                    raise
        return await self._send(await self.open(), parts, patience, on_quiet, quiet_for_s, more)

    async def _send(
        self,
        connection: Connection,
        parts: Sequence[Buffer],
        patience: Patience,
        on_quiet: OnQuiet | None,
        quiet_for_s: float,
        more: More | None = None,
    ) -> Connection:
        try:
            connection.send(parts, patience, on_quiet, quiet_for_s)
            if more is not None:
                await connection.send_more(more.pieces, chunked=more.chunked)
            await connection.head()
        except BaseException:
            self.give_back(connection)
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """Ends the exchange on `connection`: kept if its answer was complete, else closed at once."""
        if connection.release() and not self._closed and len(self._idle) < MAX_IDLE:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Closes every idle connection, and from now on those given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
