"""Keep-alive connections to one model server."""

import asyncio
import ssl
from urllib.parse import urlsplit

from gateway.backends.connection import Connection
from gateway.deadlines import Deadlines
from tidegate.config.settings import RelaySettings
from tidegate.errors import UpstreamTimeout, UpstreamUnavailable

MAX_IDLE = 1024


class Pool:
    """Opens connections to `url` and keeps the idle ones, youngest first."""

    def __init__(self, url: str, settings: RelaySettings) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._settings = settings
        self._idle: list[Connection] = []
        self._deadlines = Deadlines()
        self._closed = False
        self.netloc = parts.netloc

    async def take(self, *, fresh: bool = False) -> Connection:
        """An open connection; `fresh` forbids one that has served before.

        Raises:
            UpstreamUnavailable: refused, unresolvable, or TLS failed.
            UpstreamTimeout: not open within `connect_timeout_s`.
        """
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._settings.pool_idle_s
        while self._idle and not fresh:
            connection = self._idle.pop()
            if not connection.is_closing and connection.idle_since > oldest:
                connection.reused = True
                return connection
            connection.close()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._deadlines), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise UpstreamTimeout("the model server did not accept a connection in time") from error
        except (OSError, ssl.SSLError) as error:
            raise UpstreamUnavailable(f"the model server cannot be reached ({type(error).__name__})") from error
        return connection

    def give_back(self, connection: Connection) -> None:
        """Ends the exchange on `connection`: kept if its answer was complete, else closed at once."""
        if connection.release() and not self._closed and len(self._idle) < MAX_IDLE:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Closes every idle connection, and from now on those given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
