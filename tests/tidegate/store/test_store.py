"""The store, on SQLite and on PostgreSQL: one code path."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from tests.tidegate.store.databases import BOTH, database_of
from tidegate.config.resources import Resources
from tidegate.config.settings import StoreSettings
from tidegate.errors import StoreError
from tidegate.keys import Pepper
from tidegate.store.changes import latest_change
from tidegate.store.database import Database
from tidegate.store.kept import KeptConnection
from tidegate.store.keys import create_key, list_keys, revoke_key
from tidegate.store.resources import apply_resources, read_resources
from tidegate.store.tables import metadata, usage
from tidegate.store.usage import insert_usage, recent_usage, usage_by_key

pytestmark = pytest.mark.parametrize("kind", BOTH)
PEPPER = b"p" * 32
RESOURCES = Resources.model_validate(
    {
        "models": [{"name": "m", "replicas": [{"url": "http://127.0.0.1:1"}]}],
        "policies": [{"name": "default", "guardrails": [{"type": "pan", "on_input": "mask"}]}],
        "organisations": [{"name": "a", "projects": [{"name": "p", "models": ["m"]}]}, {"name": "empty"}],
    }
)


def run(kind: str, folder: Path, work: Callable[[Database], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with database_of(kind, folder) as database:
            return await work(database)

    return asyncio.run(main())


def usage_row(request_id: str, **more: Any) -> bytes:
    row = {
        "request_id": request_id, "organisation": "a", "project": "p", "key_id": "k", "model": "m", "path": "/v1/x",
        "replica": None, "stream": False, "outcome": "ok", "http_status": 200, "input_tokens": 3, "output_tokens": 2,
        "cached_tokens": 1, "usage_source": "reported", "started_at": 1.5, "duration_ms": 2.0, "ttft_ms": 1.0,
        "parent_request_id": None, "trace_id": None,
    }  # fmt: skip
    return json.dumps(row | more).encode()


def test_migrations_make_exactly_the_tables(kind: str, tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        await database.migrate()
        await database.require_current()
        async with database.transaction() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
            )
        assert differences == []

    run(kind, tmp_path, work)


def test_every_table_has_organisation_and_project(kind: str) -> None:
    assert all({"organisation", "project"} <= set(table.columns.keys()) for table in metadata.tables.values())


def test_resources_come_back_as_they_went_in(kind: str, tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        async with database.transaction() as connection:
            told = await apply_resources(connection, RESOURCES)
            assert len(told) == 5 and await latest_change(connection) == 1
            assert await read_resources(connection) == RESOURCES
            assert await apply_resources(connection, RESOURCES) == []
            assert await latest_change(connection) == 1
            smaller = RESOURCES.model_copy(update={"organisations": RESOURCES.organisations[:1]})
            assert await apply_resources(connection, smaller) == ["removed organisation 'empty' of 'empty'"]

    run(kind, tmp_path, work)


def test_keys_are_stored_as_digests_and_revoked_by_their_project_only(kind: str, tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        async with database.transaction() as connection:
            key = await create_key(connection, Pepper(PEPPER), "a", "p", name="n", days=1)
            rows = await list_keys(connection)
            assert key.token not in str(rows) and key.token not in repr(key)
            assert not await revoke_key(connection, "a", "other", key.key_id)
            assert await revoke_key(connection, "a", "p", key.key_id)
            assert not await revoke_key(connection, "a", "p", key.key_id)
            assert await list_keys(connection, live_only=True) == []

    run(kind, tmp_path, work)


def test_usage_batches_are_idempotent(kind: str, tmp_path: Path) -> None:
    odd = json.loads(usage_row("odd", model='a "quoted" \\ name', input_tokens=2**40, started_at=1795575017.372))

    async def work(database: Database) -> None:
        async with KeptConnection(database) as kept:
            for _ in range(2):
                await insert_usage(kept, [usage_row("1"), usage_row("2", outcome="cancelled")])
            await insert_usage(kept, [usage_row("1", output_tokens=99)])
            await insert_usage(kept, [json.dumps(odd, ensure_ascii=False).encode()])
        async with database.transaction() as connection:
            newest, *rows = await recent_usage(connection)
            assert dict(newest) == odd
            assert len(rows) == 2 and all(row["output_tokens"] == 2 for row in rows)
            expected = json.loads(usage_row("1"))
            assert [dict(row) for row in rows if row["request_id"] == "1"] == [expected]
            assert all(type(value) is type(expected[name]) for name, value in dict(rows[0]).items() if name in expected)
            sums = [row for row in await usage_by_key(connection) if row["model"] == "m"]
            assert [(row["outcome"], row["requests"], row["input_tokens"]) for row in sums] == [
                ("cancelled", 1, 3),
                ("ok", 1, 3),
            ]

    run(kind, tmp_path, work)


def test_a_batch_is_inserted_whole_or_not_at_all_and_the_next_one_goes_through(kind: str, tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        async with KeptConnection(database) as kept:
            with pytest.raises(StoreError, match="database"):
                await insert_usage(kept, [usage_row("1"), usage_row("2", organisation=None)])
            await insert_usage(kept, [usage_row("3")])
            assert await kept.scalar(select(func.count()).select_from(usage)) == 1
            assert await kept.scalar(select(usage.c.request_id).where(usage.c.request_id == "1")) is None

    run(kind, tmp_path, work)


def test_many_migrations_at_once_do_no_harm(kind: str, tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        if kind == "postgresql":
            await asyncio.gather(*(database.migrate() for _ in range(4)))
        await database.require_current()

    run(kind, tmp_path, work)


def test_an_old_schema_is_refused_with_advice(kind: str, tmp_path: Path) -> None:
    async def work() -> None:
        database = Database(StoreSettings(url=f"sqlite+aiosqlite:///{tmp_path}/empty.db"))
        with pytest.raises(StoreError, match="run `tidegate apply`"):
            await database.require_current()
        await database.close()

    asyncio.run(work())
