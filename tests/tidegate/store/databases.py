"""Both databases for the store's tests: SQLite always, PostgreSQL in the services tier."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tidegate.config.settings import StoreSettings
from tidegate.store.database import Database

BOTH = [pytest.param("sqlite", id="sqlite"), pytest.param("postgresql", id="postgresql", marks=pytest.mark.services)]


def admin_url() -> str:
    """Where a PostgreSQL for tests is; `postgres` may create databases there."""
    return os.environ.get("TEST_POSTGRES_URL", "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres")


@asynccontextmanager
async def postgres_database() -> AsyncIterator[str]:
    """The URL of a new, empty PostgreSQL database, dropped afterwards."""
    name = f"tidegate_test_{uuid.uuid4().hex[:12]}"
    engine = create_async_engine(admin_url(), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield admin_url().rpartition("/")[0] + f"/{name}"
    finally:
        async with engine.connect() as connection:
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        await engine.dispose()


@asynccontextmanager
async def database_of(kind: str, folder: Path) -> AsyncIterator[Database]:
    """A migrated database of the kind."""
    if kind == "sqlite":
        database = Database(StoreSettings(url=f"sqlite+aiosqlite:///{folder}/test.db"))
        await database.migrate()
        yield database
        await database.close()
        return
    async with postgres_database() as url:
        database = Database(StoreSettings(url=url))
        await database.migrate()
        yield database
        await database.close()
