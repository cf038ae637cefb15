"""Usage rows: one per admitted request, written in idempotent batches."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, Text, bindparam, cast, column, func, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.store.kept import KeptConnection
from tidegate.store.tables import usage


async def insert_usage(connection: KeptConnection, rows: Sequence[bytes]) -> None:
    """Inserts `rows`, JSON objects by column; those whose request id is already there are left as they are.

    The database takes the JSON apart: in Python that would cost a tenth of what a request costs.

    Raises:
        StoreError: the database is away or refuses; then none is inserted.
    """
    if rows:
        insert = _INSERTS[connection.dialect]
        await connection.scalar(insert, rows=(b"[" + b",".join(rows) + b"]").decode("utf-8", "replace"))


def _insert_for_postgresql() -> Any:
    columns = [column(item.name, item.type) for item in usage.columns]
    found = func.json_to_recordset(cast(bindparam("rows", type_=Text), postgresql.JSON)).table_valued(*columns)
    found = found.render_derived(name="row", with_types=True)
    names = [item.name for item in usage.columns]
    return postgresql.insert(usage).from_select(names, select(*found.c)).on_conflict_do_nothing()


def _insert_for_sqlite() -> Any:
    found = func.json_each(bindparam("rows", type_=Text)).table_valued("value", name="row")
    values = [func.json_extract(found.c.value, f"$.{item.name}") for item in usage.columns]
    names = [item.name for item in usage.columns]
    return sqlite.insert(usage).from_select(names, select(*values).where(true())).on_conflict_do_nothing()


_INSERTS = {"postgresql": _insert_for_postgresql(), "sqlite": _insert_for_sqlite()}


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
