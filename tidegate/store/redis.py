"""One way to reach Redis, or Valkey.

redis-py connects, knows TLS, users and errors. Its client above that, with pools, retries and events, is left out: one
connection with a time limit of ours is all that is needed, and takes three fifths of the CPU.
"""

import asyncio
import math
from typing import Any, Self

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from tidegate.config.settings import RedisSettings
from tidegate.errors import OperatorError

AWAY = (RedisError, OSError)
"""What is raised where there is no answer; a time-out, too."""
REFUSED = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)
"""What is raised where waiting does not help."""
UNWILLING = (ResponseError, *REFUSED)
"""What is raised where it can be reached, but does not do what it is asked."""
_CONNECT_S = 2.0


class Conversation:
    """Questions and answers over one connection, open within `async with`. After any error it is over."""

    def __init__(self, settings: RedisSettings, timeout_s: float) -> None:
        """`timeout_s` is the patience with one answer.

        Raises:
            OperatorError: the file with the password cannot be read.
        """
        self._timeout_s = timeout_s
        options: dict[str, Any] = {"protocol": 2, "driver_info": None, "retry": Retry(NoBackoff(), 0)}
        if settings.ca_file is not None and settings.url.startswith("rediss:"):
            options["ssl_ca_certs"] = str(settings.ca_file)
        pool = ConnectionPool.from_url(
            settings.url, username=settings.username, password=_password(settings), socket_timeout=None, **options
        )
        self._connection = pool.make_connection()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(max(_CONNECT_S, self._timeout_s)):
                await self._connection.connect()
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.disconnect(nowait=True)

    async def ask(self, *words: str | int) -> Any:
        """The answer to one command, as redis-py reads it: numbers, bytes, lists of them.

        Raises:
            RedisError, OSError: there is none; see `AWAY` and `REFUSED`.
        """
        async with asyncio.timeout(self._timeout_s):
            await self._connection.send_packed_command(_packed(words), check_health=False)
            return await self._connection.read_response(timeout=math.inf)


def _packed(words: tuple[str | int, ...]) -> bytes:
    """In the protocol's form; redis-py's own way takes a third of what a question costs."""
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        coded = str(word).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(coded), coded))
    return b"".join(pieces)


def _password(settings: RedisSettings) -> str | None:
    if settings.password_file is None:
        return None
    try:
        return settings.password_file.read_text().strip()
    except OSError as error:
        raise OperatorError(f"{settings.password_file}: {error.strerror}") from error
