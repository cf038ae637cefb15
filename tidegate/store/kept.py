"""A connection that stays open, for the two statements that a gateway sends every second of its life.

A pool's connection is asked whether it lives, and begins and ends a transaction: six round trips for one statement, through
greenlets. For an idle gateway, or one with a single stream, that was more than all else that it did. Here SQLAlchemy makes
the statement's text once, and the driver sends it: one round trip.
"""

from typing import Any, Self

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

from tidegate.store.database import Database

_PATIENCE_S = 30.0


class KeptConnection:
    """Opens when it is first asked, and again after any failure; a context manager, or `close` when done."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        """Of asyncpg or aiosqlite."""
        self._texts: dict[Executable, SQLCompiler] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def scalar(self, statement: Executable, **values: object) -> Any:
        """The first value that one statement, a transaction of its own, answers; None if it answers nothing.

        Raises:
            StoreError: the database is away, refuses, or takes more than half a minute.
        """
        try:
            if self._driver is None or self._has_ended():
                await self._open()
            compiled = self._compiled(statement)
            values = {**compiled.params, **values}
            given = [values[name] for name in compiled.positiontup or ()]
            if self._database.is_sqlite:
                rows = list(await self._driver.execute_fetchall(compiled.string, given))
                return rows[0][0] if rows else None
            return await self._driver.fetchval(compiled.string, *given, timeout=_PATIENCE_S)
        except Exception as error:  # the drivers' errors have no common base, and nothing but a driver is at work here
            await self.close()
            raise self._database.away(error) from error
        except BaseException:  # half a conversation cannot be gone on with
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the connection."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def _open(self) -> None:
        await self.close()
        self._connection = await self._database.engine.connect()
        await self._connection.execution_options(isolation_level="AUTOCOMMIT")
        self._driver = (await self._connection.get_raw_connection()).driver_connection

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self._database.engine.dialect.name

    def _has_ended(self) -> bool:
        return not self._database.is_sqlite and self._driver.is_closed()

    def _compiled(self, statement: Executable) -> SQLCompiler:
        if statement not in self._texts:
            made = statement.compile(dialect=self._database.engine.dialect)  # type: ignore[attr-defined]
            self._texts[statement] = made
        return self._texts[statement]
