"""The way to one vLLM server: what is sent, what comes back, what is passed over.

Headers go up by an allow-list: never cookies, never the caller's credentials.
"""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from gateway.backends.connection import Buffer, Connection, OnQuiet, Patience
from gateway.backends.pool import More, Pool
from tidegate.config.resources import Replica
from tidegate.config.settings import RelaySettings
from tidegate.errors import ConfigError, UpstreamBusy, UpstreamError, UpstreamMisconfigured, UpstreamUnavailable

_MAX_PAUSE_S = 86_400.0
"""No client and no replica waits longer for anything, whatever a `retry-after` says."""
REFUSES_ALL = frozenset({401, 403, 429, *range(500, 600)} - {501})
"""Statuses that are between the gateway and the model server: the caller gets an error of ours."""


class Outgoing:
    """A request as it is sent to a model server."""

    __slots__ = ("content_type", "length", "more", "parts", "path", "request_id", "stream")

    def __init__(
        self,
        path: str,
        parts: tuple[Buffer, ...],
        request_id: str,
        *,
        stream: bool,
        length: int | None,
        content_type: bytes = b"application/json",
        more: AsyncGenerator[bytes, None] | None = None,
    ) -> None:
        self.path = path
        self.parts = parts
        self.request_id = request_id
        self.stream = stream
        self.content_type = content_type
        self.length = length
        """Bytes of the whole body; None where nobody knows."""
        self.more = more
        """What comes after `parts`."""


class VllmServer:
    """One replica's address, credentials and connections."""

    def __init__(self, replica: Replica, settings: RelaySettings, address: str | None = None) -> None:
        """With an `address`, it is the one of the host name's servers that is there."""
        self.url = replica.url if address is None else _url_at(replica.url, address)
        self.audience = replica.audience
        self.settings = settings
        self.pool = Pool(replica.url, settings, address)
        self._for_whole = Patience(settings.first_byte_timeout_s, settings.idle_timeout_s)
        self._for_streams = Patience(
            settings.first_event_timeout_s, settings.idle_timeout_s, settings.comment_after_s, by_events=True
        )
        self._fixed = f"host: {self.pool.netloc}\r\n".encode()
        if replica.api_key_file is not None:
            try:
                key = replica.api_key_file.read_text().strip()
            except OSError as error:
                raise ConfigError(f"api_key_file of replica {replica.url!r}: {error.strerror}") from error
            self._fixed += f"authorization: Bearer {key}\r\n".encode()

    async def post(
        self, body: "Outgoing", *, lines: bytes, on_quiet: OnQuiet | None = None, quiet_for_s: float = 0.0
    ) -> Connection:
        """Sends a POST and returns the connection once the answer's head is there.

        `lines` is complete header lines: the trace, and an internal token where the server is a service of ours. The
        caller gives the connection back to `pool`, whatever happens. `on_quiet` and `quiet_for_s`: see `Connection.send`.

        Raises:
            UpstreamError: nothing came back that could be relayed.
        """
        more, length = body.more, body.length
        size = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        head = b"POST %s HTTP/1.1\r\n%scontent-type: %s\r\nx-request-id: %s\r\n%s%s\r\n\r\n" % (
            body.path.encode(),
            self._fixed,
            body.content_type,
            body.request_id.encode(),
            lines,
            size,
        )
        parts = body.parts if length is not None else tuple(b"%x\r\n%s\r\n" % (len(part), part) for part in body.parts)
        connection = await self.pool.exchange(
            (head, *parts),
            self._for_streams if body.stream else self._for_whole,
            on_quiet=on_quiet,
            quiet_for_s=quiet_for_s if body.stream else 0.0,
            more=None if more is None else More(more, chunked=length is None),
        )
        if connection.status in REFUSES_ALL:
            error = _refusal(connection)
            self.pool.give_back(connection)
            raise error
        return connection


def _url_at(url: str, address: str) -> str:
    parts = urlsplit(url)
    host = f"[{address}]" if ":" in address else address
    return f"{parts.scheme}://{host}" + ("" if parts.port is None else f":{parts.port}")


def _refusal(connection: Connection) -> UpstreamError:
    """What a status means that says nothing about the request."""
    status = connection.status
    if status in (401, 403):
        return UpstreamMisconfigured(f"the model server answered {status}: it does not accept the gateway's key")
    pause_s = retry_after_s(connection.headers.get(b"retry-after"), datetime.now(UTC))
    if status == 429:
        return UpstreamBusy("the model servers have no room for this request now", retry_after_s=pause_s)
    if status == 500:
        return UpstreamError("the model server failed (500)", retry_after_s=pause_s)
    return UpstreamUnavailable(f"the model server answered {status}", retry_after_s=pause_s)


def retry_after_s(value: bytes | None, now: datetime) -> float | None:
    """The seconds that a `retry-after` asks for, which may be a number or a date (RFC 9110 section 10.2.3); a day at most."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isdecimal():
        return min(float(text[:9]), _MAX_PAUSE_S)
    try:
        pause_s = (parsedate_to_datetime(text).astimezone(UTC) - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(0.0, pause_s), _MAX_PAUSE_S)
