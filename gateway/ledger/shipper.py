"""Carries journals into the database, in idempotent batches: the request id is the row's key.

The disk is the queue: nothing is kept in memory but a position, so a database that is away costs disk only.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.ledger.journal import END, READ_BYTES, Journal, recover, request_of, segments, unread, whole_lines
from gateway.place import journals
from tidegate.config.settings import JournalSettings
from tidegate.errors import StoreError
from tidegate.store.database import Database
from tidegate.store.kept import KeptConnection
from tidegate.store.usage import insert_usage
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics

_MAX_BACKOFF_S = 30.0
_REST_S = 10.0


class Shipper:
    """Reads what a gateway's processes write into their journals and inserts it; one per machine."""

    def __init__(
        self, directory: Path, database: Database, settings: JournalSettings, metrics: Metrics, log: JsonLog
    ) -> None:
        self._directory = directory
        self._database = KeptConnection(database)
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._segments: dict[Path, _Segment] = {}

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

        What is written meanwhile is left for the next time: running after it would mean a batch for every few rows.

        Raises:
            StoreError: the database is away; nothing is lost.
        """
        listed = [segments(directory) for directory in journals(self._directory)]
        left = {path: unread(path, self._segment(path).position) for each in listed for path in each}
        grown, shipped = [path for path, size in left.items() if size], 0
        try:
            if grown:
                await asyncio.to_thread(_sync, grown)
            for path in grown:
                while left[path] and (consumed := await self._next_batch(path)):
                    shipped += consumed
                    left[path] = max(0, left[path] - consumed)
            for path in [path for each in listed for path in each[:-1]]:  # the last one is being written
                if not self._segments[path].open:
                    path.unlink()
                    del self._segments[path], left[path]  # with a torn line, if there is one
        finally:
            self._metrics.set(names.JOURNAL_UNSHIPPED, sum(left.values()))
        return shipped

    async def ship_rest(self) -> None:
        """At the end of the process: what cannot be shipped now is left for the next start."""
        try:
            async with asyncio.timeout(_REST_S):
                await self.ship()
        except (TimeoutError, StoreError) as error:
            self._log.write("warning", "journal_left_for_the_next_start", reason=str(error))
        finally:
            await self._database.close()

    def _segment(self, path: Path) -> "_Segment":
        return self._segments.setdefault(path, _Segment())

    async def _next_batch(self, path: Path) -> int:
        read = self._segment(path)
        begun, ended, consumed = _read(path, read.position, self._settings.batch_rows)
        if ended:
            await insert_usage(self._database, list(ended.values()))
        read.position += consumed
        read.open |= begun
        for segment in self._segments.values():
            if segment.open:
                segment.open -= ended.keys()
        return consumed


def recover_all(directory: Path, segment_bytes: int, log: JsonLog) -> None:
    """Turns what earlier processes left unfinished into rows; before the first process of a gateway serves. Blocks.

    Raises:
        OperatorError: one of them is still running.
    """
    for folder in journals(directory):
        recover_one(folder, segment_bytes, log)


def recover_one(folder: Path, segment_bytes: int, log: JsonLog) -> None:
    """The same for one journal, whose process has ended. Blocks."""
    journal = Journal(folder, segment_bytes)
    journal.open()
    try:
        if interrupted := recover(journal):
            log.write("warning", "recovered", interrupted=interrupted)
    finally:
        journal.close()


@dataclass(slots=True)
class _Segment:
    """What is known of a file."""

    position: int = 0
    """Up to here it is shipped."""
    open: set[str] = field(default_factory=set)
    """Requests that began in it and have not ended: until then recovery needs it."""


def _sync(paths: Sequence[Path]) -> None:
    """Makes what was written safe against a power failure; blocks on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, position: int, most_rows: int) -> tuple[set[str], dict[str, bytes], int]:
    """From `position` on: requests that began, rows (as JSON) of those that ended, and the bytes that takes.

    A block of what was written a moment ago, so it comes from memory; on the loop, because a thread of Python's would
    fight it for the interpreter lock and cost more.
    """
    with path.open("rb") as file:
        file.seek(position)
        block = file.read(READ_BYTES)
    begun: set[str] = set()
    ended: dict[str, bytes] = {}
    consumed = 0
    for line in whole_lines(block):
        if len(ended) == most_rows:
            break
        consumed += len(line)
        request_id = request_of(line)
        if request_id is not None and line.startswith(END):
            ended[request_id] = line[1:-1]
        elif request_id is not None:
            begun.add(request_id)
    return begun - ended.keys(), ended, consumed
