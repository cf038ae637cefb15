"""Usage rows: one per admitted request, written in idempotent batches."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.store.tables import usage


async def insert_usage(connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    """Inserts `rows`; those whose request id is already there are left as they are."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        await connection.execute(sqlite.insert(usage).on_conflict_do_nothing(), rows)
    else:
        await connection.execute(postgresql.insert(usage).on_conflict_do_nothing(), rows)


async def usage_by_key(connection: AsyncConnection) -> Sequence[RowMapping]:
    """Requests and tokens per organisation, project, key, model and outcome."""
    groups = (usage.c.organisation, usage.c.project, usage.c.key_id, usage.c.model, usage.c.outcome)
    totals = (
        func.count().label("requests"),
        func.sum(usage.c.input_tokens).label("input_tokens"),
        func.sum(usage.c.output_tokens).label("output_tokens"),
        func.sum(usage.c.cached_tokens).label("cached_tokens"),
    )
    return (await connection.execute(select(*groups, *totals).group_by(*groups).order_by(*groups))).mappings().all()


async def recent_usage(connection: AsyncConnection, limit: int = 100) -> Sequence[RowMapping]:
    """The newest rows, newest first."""
    return (await connection.execute(select(usage).order_by(usage.c.started_at.desc()).limit(limit))).mappings().all()
