"""One way to reach the database, SQLite or PostgreSQL."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tidegate.config.load import redact_url
from tidegate.config.settings import StoreSettings
from tidegate.errors import StoreError

_MIGRATION_LOCK = 7_231_904_112  # any constant: one migration at a time on PostgreSQL


class Database:
    """Connections to one database; `close` when done."""

    def __init__(self, settings: StoreSettings) -> None:
        url = make_url(settings.url)
        if settings.password_file is not None:
            url = url.set(password=settings.password_file.read_text().strip())
        self.shown_url = redact_url(settings.url)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": True}
        if self.is_sqlite and url.database:
            _make_private(Path(url.database))
        else:
            options |= {"pool_size": 5, "max_overflow": 5, "pool_timeout": 10}
        try:
            self.engine: AsyncEngine = create_async_engine(url, **options)
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(f"store.url {self.shown_url!r} cannot be used: {error}") from error
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _tune_sqlite)

    async def close(self) -> None:
        """Closes every connection."""
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection inside a transaction.

        Raises:
            StoreError: the database is away or refuses.
        """
        try:
            async with self.engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise self.away(error) from error

    def away(self, error: Exception) -> StoreError:
        """What to say of a failure."""
        return StoreError(f"database {self.shown_url}: {type(error).__name__}: {_short(error)}")

    async def migrate(self) -> None:
        """Brings the schema to the newest revision; safe to call from several processes at once.

        Raises:
            StoreError: the database is away or a migration fails.
        """
        async with self.transaction() as connection:
            await connection.run_sync(self._upgrade)

    async def require_current(self) -> None:
        """Refuses to serve on another schema than this version's.

        Raises:
            StoreError: the database is away, or `tidegate apply` has not been run.
        """
        found, head = await self._revision(), _scripts().get_current_head()
        if found != head:
            raise StoreError(
                f"database {self.shown_url} is at revision {found}, this version needs {head}; run `tidegate apply`"
            )

    async def schema(self) -> Literal["absent", "older", "current", "newer"]:
        """What is there, seen from this version.

        Raises:
            StoreError: the database is away.
        """
        found, scripts = await self._revision(), _scripts()
        if found is None:
            return "absent"
        if found == scripts.get_current_head():
            return "current"
        return "older" if found in {script.revision for script in scripts.walk_revisions()} else "newer"

    async def _revision(self) -> str | None:
        async with self.transaction() as connection:
            return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())

    def _upgrade(self, connection: Connection) -> None:
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _make_private(path: Path) -> None:
    """Makes an empty database that only this user may read; SQLite gives its helper files the same mode."""
    if str(path).startswith((":memory:", "file:")) or path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"the database {path} cannot be made: {error.strerror}") from error


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    tuned = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON", "secure_delete=ON")
    for pragma in tuned:  # the last: what is deleted is overwritten, not only unlinked
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _short(error: BaseException) -> str:
    """The driver's own words, without the statement and its parameters."""
    return (str(getattr(error, "orig", None) or error) or "no answer").splitlines()[0][:200]
