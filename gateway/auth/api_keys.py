"""API keys: from the `authorization` header to a principal, in memory."""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.errors import Unauthenticated
from tidegate.keys import KEY_ID, Pepper, key_id_of
from tidegate.types import Principal

_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What the snapshot holds of a key."""

    digest: str
    expires_at: float | None
    principal: Principal


def authenticate(header: bytes | None, known: Mapping[str, KnownKey], pepper: Pepper) -> Principal:
    """The principal of the bearer key; comparison takes the same time whether the id exists or not.

    Raises:
        Unauthenticated: no key, not a key, unknown, revoked or expired; which of the last four is not told.
    """
    if header is None:
        raise Unauthenticated("No API key. Send `Authorization: Bearer tg-…`.", code="missing_api_key")
    scheme, _, token = header.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("The authorization header must read `Bearer tg-…`.")
    key = known.get(token[KEY_ID])
    same = hmac.compare_digest(key.digest if key else _NOBODY, pepper.digest(token))
    if key is None or not same or (key.expires_at is not None and key.expires_at < time.time()):
        if key_id_of(token) is None:
            raise Unauthenticated("This is not a complete Tidegate API key; its checksum does not fit.")
        raise Unauthenticated("This API key is unknown, revoked or expired.")
    return key.principal
