"""API keys: their form, and their rows. A key itself is never stored, only its HMAC.

Form: `tg-<id: 12 letters and digits>-<secret: 32><checksum: 6>`. The prefix lets secret scanners find leaked keys, the
checksum lets them and us tell a typing error from an unknown key without asking anybody.
"""

import hashlib
import hmac
import re
import secrets
import string
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.errors import ConfigError
from tidegate.store.changes import note_change
from tidegate.store.tables import keys

_ALPHABET = string.ascii_letters + string.digits
KEY_ID = slice(3, 15)
"""Where the id stands in a key."""
KEY_FORM = re.compile(r"tg-([A-Za-z0-9]{12})-([A-Za-z0-9]{32})([A-Za-z0-9]{6})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `token` is shown once and kept nowhere."""

    key_id: str
    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"NewKey(key_id={self.key_id!r})"


class Pepper:
    """Hashes keys under one pepper; the keyed state is made once, since making it costs more than using it."""

    def __init__(self, secret: bytes) -> None:
        self._keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def digest(self, token: str) -> str:
        """What is stored of a key: HMAC-SHA-256, hex."""
        keyed = self._keyed.copy()
        keyed.update(token.encode())
        return keyed.hexdigest()


def read_pepper(path: Path) -> Pepper:
    """The secret that keys are hashed with.

    Raises:
        ConfigError: missing or too short.
    """
    try:
        pepper = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"auth.key_pepper_file {path}: {error.strerror}; `tidegate init` makes one") from error
    if len(pepper) < 32:
        raise ConfigError(f"auth.key_pepper_file {path}: needs at least 32 bytes, has {len(pepper)}")
    return Pepper(pepper)


def key_id_of(token: str) -> str | None:
    """The id inside a well-formed key whose checksum holds, else None."""
    match = KEY_FORM.fullmatch(token)
    if match is None or checksum(match[1] + match[2]) != match[3]:
        return None
    return match[1]


def checksum(text: str) -> str:
    """CRC-32 in six characters of base 62."""
    value, out = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, rest = divmod(value, 62)
        out += _ALPHABET[rest]
    return out


async def create_key(
    connection: AsyncConnection,
    pepper: Pepper,
    organisation: str,
    project: str,
    *,
    name: str,
    days: float | None = None,
) -> NewKey:
    """Makes a key for a project; expires after `days` if given."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(32))
    token = f"tg-{key_id}-{secret}{checksum(key_id + secret)}"
    now = time.time()
    row = {
        "key_id": key_id,
        "organisation": organisation,
        "project": project,
        "name": name,
        "digest": pepper.digest(token),
        "created_at": now,
        "expires_at": None if days is None else now + days * 86_400,
    }
    await connection.execute(insert(keys).values(row))
    await note_change(connection, "keys", organisation, project)
    return NewKey(key_id, token)


async def revoke_key(connection: AsyncConnection, organisation: str, project: str, key_id: str) -> bool:
    """Revokes a key of the project; False if it has no such live key."""
    mine = (keys.c.key_id == key_id) & (keys.c.organisation == organisation) & (keys.c.project == project)
    done = await connection.execute(
        update(keys).where(mine, keys.c.revoked_at.is_(None)).values(revoked_at=time.time())
    )
    if done.rowcount:
        await note_change(connection, "keys", organisation, project)
    return bool(done.rowcount)


async def list_keys(connection: AsyncConnection, *, live_only: bool = False) -> Sequence[RowMapping]:
    """Every key's row, oldest first."""
    query = select(keys).order_by(keys.c.created_at)
    if live_only:
        query = query.where(keys.c.revoked_at.is_(None))
    return (await connection.execute(query)).mappings().all()
