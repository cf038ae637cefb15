"""The change counter that gateways watch."""

import time

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.store.tables import PLATFORM, changes


async def note_change(
    connection: AsyncConnection, what: str, organisation: str = PLATFORM, project: str = PLATFORM
) -> None:
    """Tells every gateway, at its next look, that `what` has changed. Part of the caller's transaction."""
    row = {"organisation": organisation, "project": project, "what": what, "at": time.time()}
    await connection.execute(insert(changes).values(row))


LATEST_CHANGE = select(func.coalesce(func.max(changes.c.change_id), 0))
"""The number of the newest change; 0 if there is none."""


async def latest_change(connection: AsyncConnection) -> int:
    """What `LATEST_CHANGE` answers."""
    return int(await connection.scalar(LATEST_CHANGE) or 0)
