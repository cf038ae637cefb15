"""Kept answers of the Responses API and the journal of runs. Every query names organisation and project."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.store.documents import Owner
from tidegate.store.tables import responses, run_events


async def add_response(connection: AsyncConnection, owner: Owner, row: dict[str, Any]) -> None:
    """Keeps an answer; `row` has every column but the owner's."""
    await connection.execute(insert(responses).values(**owner.columns(), **row))


async def get_response(connection: AsyncConnection, owner: Owner, response_id: str) -> RowMapping | None:
    """A kept answer that has not expired."""
    mine = owner.of(responses) & (responses.c.response_id == response_id) & (responses.c.expires_at > time.time())
    return (await connection.execute(select(responses).where(mine))).mappings().first()


async def delete_response(connection: AsyncConnection, owner: Owner, response_id: str) -> bool:
    """Deletes an answer and its run's journal; False if there is none."""
    mine = owner.of(responses) & (responses.c.response_id == response_id)
    done = await connection.execute(delete(responses).where(mine))
    if done.rowcount:
        await connection.execute(
            delete(run_events).where(owner.of(run_events), run_events.c.response_id == response_id)
        )
    return bool(done.rowcount)


async def add_event(connection: AsyncConnection, owner: Owner, row: dict[str, Any]) -> None:
    """A step of a run; `row` has every column but the owner's and the time."""
    await connection.execute(insert(run_events).values(**owner.columns(), at=time.time(), **row))


async def list_events(connection: AsyncConnection, owner: Owner, response_id: str) -> Sequence[RowMapping]:
    """The steps of a run, in order."""
    mine = owner.of(run_events) & (run_events.c.response_id == response_id)
    return (await connection.execute(select(run_events).where(mine).order_by(run_events.c.sequence))).mappings().all()


async def delete_expired(connection: AsyncConnection) -> int:
    """Deletes what has been kept long enough; how many answers."""
    now = time.time()
    await connection.execute(delete(run_events).where(run_events.c.expires_at <= now))
    return int((await connection.execute(delete(responses).where(responses.c.expires_at <= now))).rowcount)
