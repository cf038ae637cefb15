"""Carries the journal into the database, in idempotent batches: the request id is the row's key.

The disk is the queue: nothing is kept in memory but a position, so a database that is away costs disk only.
"""

import asyncio
from pathlib import Path
from typing import Any

from gateway.ledger.journal import END, Journal, is_row, parse
from tidegate.config.settings import JournalSettings
from tidegate.errors import StoreError
from tidegate.store.database import Database
from tidegate.store.usage import insert_usage
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Outcome, UsageSource

_MAX_BACKOFF_S = 30.0
_BLOCK_BYTES = 262_144


class Shipper:
    """Reads what the journal wrote and inserts it; one per journal."""

    def __init__(
        self, journal: Journal, database: Database, settings: JournalSettings, metrics: Metrics, log: JsonLog
    ) -> None:
        self._journal = journal
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._positions: dict[str, int] = {}
        self._all_shipped = False

    async def run(self) -> None:
        """Ships for ever; a database that is away is tried again, more slowly each time."""
        pause_s = self._settings.ship_interval_s
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.ship()
                pause_s = self._settings.ship_interval_s
            except StoreError as error:
                self._metrics.count(names.JOURNAL_ERRORS)
                pause_s = min(pause_s * 2, _MAX_BACKOFF_S)
                self._log.write("error", "journal_not_shipped", reason=error.message, next_try_s=pause_s)
            except Exception as error:  # noqa: BLE001 - nobody awaits this task; metering must outlive a defect
                self._metrics.count(names.JOURNAL_ERRORS)
                pause_s = min(pause_s * 2, _MAX_BACKOFF_S)
                self._log.write("error", "defect", error=type(error).__name__, task="shipper", next_try_s=pause_s)

    async def ship(self) -> int:
        """Ships everything written so far; how many bytes of the journal that were.

        Raises:
            StoreError: the database is away; nothing is lost.
        """
        if self._all_shipped and not self._journal.unshipped_bytes:
            return 0
        await asyncio.to_thread(self._journal.sync)
        shipped = 0
        left = []
        for path in self._journal.segments():
            while consumed := await self._next_batch(path):
                shipped += consumed
            if self._journal.may_drop(path):
                self._journal.unshipped_bytes -= path.stat().st_size - self._positions.pop(path.name, 0)  # a torn line
                path.unlink()
                self._journal.dropped(path)
            else:
                left.append(path)
        self._all_shipped = len(left) == 1
        self._metrics.set(names.JOURNAL_UNSHIPPED, self._journal.unshipped_bytes)
        return shipped

    async def _next_batch(self, path: Path) -> int:
        position = self._positions.get(path.name, 0)
        rows, consumed = _read(path, position, self._settings.batch_rows)
        if rows:
            async with self._database.transaction() as connection:
                await insert_usage(connection, rows)
        self._positions[path.name] = position + consumed
        self._journal.unshipped_bytes -= consumed
        return consumed

    async def recover(self) -> int:
        """Writes an `interrupted` end for every request that an earlier process began and never ended.

        Runs after `Journal.open` and before the first request. How many there were.
        """
        interrupted = await asyncio.to_thread(_unfinished, self._journal)
        for row in interrupted:
            self._journal.end(row["request_id"], row)
        if interrupted:
            self._log.write("warning", "recovered", interrupted=len(interrupted))
        return len(interrupted)


def _read(path: Path, position: int, most_rows: int) -> tuple[list[bytes], int]:
    """The rows to insert from `position` on, as JSON, and the bytes they and the lines between them take.

    A block of what was written a moment ago, so it comes from memory; on the loop, because a thread of Python's would
    fight it for the interpreter lock and cost more.
    """
    with path.open("rb") as file:
        file.seek(position)
        block = file.read(_BLOCK_BYTES)
    rows: list[bytes] = []
    consumed = 0
    for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
        if len(rows) == most_rows:
            break
        consumed += len(line)
        if line.startswith(END) and is_row(line):
            rows.append(line[1:-1])
    return rows, consumed


def _unfinished(journal: Journal) -> list[dict[str, Any]]:
    begun: dict[str, dict[str, Any]] = {}
    for path in journal.segments():
        with path.open("rb") as file:
            for line in file:
                row = parse(line)
                if row is None:
                    continue
                if line.startswith(END):
                    begun.pop(row["request_id"], None)
                else:
                    begun[row["request_id"]] = row
    for row in begun.values():
        row |= {"outcome": Outcome.INTERRUPTED, "usage_source": UsageSource.ESTIMATED}
    return list(begun.values())
