"""The connection that stays open: what ends it, and that nothing does for long."""

import asyncio

import pytest
from sqlalchemy import select, text

from tests.tidegate.store.databases import postgres_database
from tidegate.config.settings import StoreSettings
from tidegate.errors import StoreError
from tidegate.store import kept as module
from tidegate.store.database import Database
from tidegate.store.kept import KeptConnection

pytestmark = pytest.mark.services
ITS_NUMBER = select(text("pg_backend_pid()"))
SLEEP = select(text("pg_sleep(20)::text"))


def test_it_is_one_connection_until_the_server_ends_it_and_then_another() -> None:
    async def main() -> None:
        async with postgres_database() as url:
            database = Database(StoreSettings(url=url))
            async with KeptConnection(database) as kept:
                first = await kept.scalar(ITS_NUMBER)
                assert await kept.scalar(ITS_NUMBER) == first
                async with database.transaction() as connection:
                    await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first})
                await asyncio.sleep(0.2)
                assert await kept.scalar(ITS_NUMBER) != first
            await database.close()

    asyncio.run(main())


def test_what_is_not_answered_in_time_or_is_cancelled_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)

    async def main() -> None:
        async with postgres_database() as url:
            database = Database(StoreSettings(url=url))
            async with KeptConnection(database) as kept:
                with pytest.raises(StoreError, match="TimeoutError"):
                    await kept.scalar(SLEEP)
                first = await kept.scalar(ITS_NUMBER)
                asking = asyncio.ensure_future(kept.scalar(SLEEP))
                await asyncio.sleep(0.1)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                assert await kept.scalar(ITS_NUMBER) != first
            async with database.transaction() as connection:
                others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                assert await connection.scalar(text(others)) == 0
            await database.close()

    asyncio.run(main())
