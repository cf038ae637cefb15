"""One way to reach Redis, or Valkey."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    RedisError,
)

from tidegate.config.settings import RedisSettings
from tidegate.errors import OperatorError

_CONNECT_S = 2.0
AWAY = (RedisError, OSError)
"""What a command raises that has no answer."""
REFUSED = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)
"""What it raises where waiting does not help."""


def connect(settings: RedisSettings, timeout_s: float) -> Redis:
    """A client of one connection, which opens with the first command; `aclose` when done. It tries nothing twice.

    Raises:
        OperatorError: the file with the password cannot be read.
    """
    options: dict[str, Any] = {}
    if settings.ca_file is not None:
        options["ssl_ca_certs"] = str(settings.ca_file)
    return Redis.from_url(
        settings.url,
        single_connection_client=True,
        username=settings.username,
        password=_password(settings),
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, _CONNECT_S),
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
        **options,
    )


def _password(settings: RedisSettings) -> str | None:
    if settings.password_file is None:
        return None
    try:
        return settings.password_file.read_text().strip()
    except OSError as error:
        raise OperatorError(f"{settings.password_file}: {error.strerror}") from error
