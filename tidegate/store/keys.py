"""The rows of API keys."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.keys import ALPHABET, Pepper, checksum
from tidegate.store.changes import note_change
from tidegate.store.tables import keys


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `token` is shown once and kept nowhere."""

    key_id: str
    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"NewKey(key_id={self.key_id!r})"


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
    key_id = "".join(secrets.choice(ALPHABET) for _ in range(12))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(32))
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
