"""The way to one vLLM server: what is sent, what comes back, what is passed over.

Headers go up by an allow-list: never cookies, never the caller's credentials.
"""

from gateway.backends.connection import Connection
from gateway.backends.pool import Pool
from tidegate.config.resources import Replica
from tidegate.config.settings import RelaySettings
from tidegate.errors import ConfigError, UpstreamBroken, UpstreamUnavailable

ANSWER_HEADERS = frozenset({b"content-type", b"retry-after", b"openai-processing-ms"})
"""Answer headers that reach the caller; the gateway sets the others itself."""


class VllmServer:
    """One replica's address, credentials and connections."""

    def __init__(self, replica: Replica, settings: RelaySettings) -> None:
        self.url = replica.url
        self.settings = settings
        self.pool = Pool(replica.url, settings)
        self._fixed = f"host: {self.pool.netloc}\r\ncontent-type: application/json\r\n".encode()
        if replica.api_key_file is not None:
            try:
                key = replica.api_key_file.read_text().strip()
            except OSError as error:
                raise ConfigError(f"api_key_file of replica {replica.url!r}: {error.strerror}") from error
            self._fixed += f"authorization: Bearer {key}\r\n".encode()

    async def post(self, path: str, body: bytes, *, request_id: str, trace: bytes) -> Connection:
        """Sends a POST and returns the connection once the answer's head is there.

        A pooled connection that turns out dead before the first answer byte is replaced once by a fresh one: the server
        closed it while idle and has not read the request. `trace` is complete header lines. The caller gives the
        connection back to `pool`, whatever happens.

        Raises:
            UpstreamError: nothing came back that could be relayed.
        """
        head = b"POST %s HTTP/1.1\r\n%sx-request-id: %s\r\n%scontent-length: %d\r\n\r\n" % (
            path.encode(),
            self._fixed,
            request_id.encode(),
            trace,
            len(body),
        )
        connection = await self.pool.take()
        try:
            return await self._exchange(connection, head, body)
        except UpstreamBroken:
            if not connection.reused or connection.status or connection.chunks:
                raise
        fresh = await self.pool.take(fresh=True)
        return await self._exchange(fresh, head, body)

    async def _exchange(self, connection: Connection, head: bytes, body: bytes) -> Connection:
        limits = self.settings
        try:
            if connection.is_closing:
                raise UpstreamBroken("the model server closed the connection")
            connection.send(
                head, body, first_byte_timeout_s=limits.first_byte_timeout_s, idle_timeout_s=limits.idle_timeout_s
            )
            await connection.head()
        except BaseException:
            self.pool.give_back(connection)
            raise
        if connection.status in (502, 503, 504):
            self.pool.give_back(connection)
            raise UpstreamUnavailable(f"the model server answered {connection.status}")
        return connection
