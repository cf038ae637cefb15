"""The way to another service of ours: each call carries an internal token, never the caller's own credential."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from gateway.backends.connection import Connection, Patience
from gateway.backends.pool import Pool
from tidegate.config.settings import RelaySettings
from tidegate.errors import (
    AnswerTooLarge,
    ServiceUnavailable,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    render_event,
)
from tidegate.identity import Caller, Minter


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """What is asked."""

    method: str
    path: str
    """With the query, if there is one."""
    body: bytes = b""
    content_type: bytes = b"application/json"
    lines: bytes = b""
    """Further complete header lines."""
    replay: bool = False
    """Whether it may be sent twice, where a pooled connection turns out dead."""


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """What came back."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ServiceStream:
    """What is coming back, piece by piece; read it to its end or close it."""

    status: int
    content_type: str
    pieces: AsyncGenerator[bytes, None]


class ServiceClient:
    """Calls one service."""

    def __init__(self, url: str, audience: str, minter: Minter, settings: RelaySettings) -> None:
        self._audience = audience
        self._minter = minter
        self._most_bytes = settings.max_answer_bytes
        self._idle_s = settings.idle_timeout_s
        self._pool = Pool(url, settings)
        self._host = self._pool.netloc.encode()

    async def call(
        self,
        request: ServiceRequest,
        caller: Caller,
        *,
        trace: bytes = b"",
        timeout_s: float,
        most_bytes: int | None = None,
    ) -> ServiceAnswer:
        """Sends `request` on behalf of `caller`; `trace` is complete header lines. Hangs up where it is cancelled.

        Raises:
            ServiceUnavailable: there was no answer that can be used.
        """
        connection = await self._open(request, caller, trace, timeout_s)
        try:
            body = await connection.read_all(most_bytes or self._most_bytes)
        except UpstreamError as error:
            raise self._failure(error) from error
        finally:
            self._pool.give_back(connection)
        return ServiceAnswer(connection.status, _content_type(connection), body)

    async def stream(
        self, request: ServiceRequest, caller: Caller, *, trace: bytes = b"", timeout_s: float
    ) -> ServiceAnswer | ServiceStream:
        """As `call`, but a stream of events is handed out as it comes.

        Raises:
            ServiceUnavailable: there was no answer that can be used.
        """
        connection = await self._open(request, caller, trace, timeout_s)
        if _content_type(connection).startswith("text/event-stream"):
            return ServiceStream(connection.status, _content_type(connection), self._pieces(connection))
        try:
            return ServiceAnswer(
                connection.status, _content_type(connection), await connection.read_all(self._most_bytes)
            )
        except UpstreamError as error:
            raise self._failure(error) from error
        finally:
            self._pool.give_back(connection)

    async def _pieces(self, connection: Connection) -> AsyncGenerator[bytes, None]:
        """What arrives; hangs up where the reader leaves."""
        try:
            while data := await connection.read():
                yield data
        except UpstreamError as error:
            yield render_event(self._failure(error))
        finally:
            self._pool.give_back(connection)

    async def _open(self, request: ServiceRequest, caller: Caller, trace: bytes, timeout_s: float) -> Connection:
        head = (
            b"%s %s HTTP/1.1\r\nhost: %s\r\nauthorization: Bearer %s\r\ncontent-type: %s\r\n%scontent-length: %d\r\n\r\n"
            % (
                request.method.encode(),
                request.path.encode(),
                self._host,
                self._minter.mint(caller, self._audience).encode(),
                request.content_type,
                trace + request.lines,
                len(request.body),
            )
        )
        try:
            connection = await self._pool.exchange(
                (head, request.body), Patience(timeout_s, self._idle_s), replay=request.replay
            )
        except UpstreamError as error:
            raise self._failure(error) from error
        if connection.status >= 600:
            self._pool.give_back(connection)
            raise ServiceUnavailable(
                f"The {self._audience} service returned the unexpected status {connection.status}."
            )
        if connection.status in (401, 403):
            self._pool.give_back(connection)
            raise ServiceUnavailable(f"The {self._audience} service does not accept the gateway's token.")
        return connection

    def _failure(self, error: UpstreamError) -> ServiceUnavailable:
        return ServiceUnavailable(f"The {self._audience} service {_told(error)}.", code=_code(error))

    def delegate(self, caller: Caller) -> str:
        """A token with which the service may use the public door on behalf of `caller`."""
        return self._minter.mint(caller, "gateway")

    def close(self) -> None:
        """Closes every connection."""
        self._pool.close()


def _content_type(connection: Connection) -> str:
    return connection.headers.get(b"content-type", b"application/json").decode("latin-1")


def _told(error: UpstreamError) -> str:
    match error:
        case AnswerTooLarge():
            return "answered with more than is passed on"
        case UpstreamTimeout():
            return "did not answer in time"
        case UpstreamBroken():
            return "broke off its answer"
        case _:
            return "cannot be reached"


def _code(error: UpstreamError) -> str | None:
    """The error's own code, unless the service is simply not there."""
    return error.code if isinstance(error, AnswerTooLarge | UpstreamTimeout) else None
