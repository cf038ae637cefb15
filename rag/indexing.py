"""Brings each project's index to what the database says, and knows what a search must be told about it.

Nothing is compared unless something has changed. Each project has a task of its own while it has work; two are compared at a
time, one small and one large index built, so that small builds never stand behind large ones.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rag.index import BuildFailed, Index, Indexes
from rag.storage import Contents, shelves
from tidegate.errors import TidegateError
from tidegate.serving.http import where
from tidegate.store.database import Database
from tidegate.store.documents import (
    COMPLETED,
    EMBEDDED,
    Owner,
    complete,
    owners,
    requeue,
    segments,
    survey,
)
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics

SMALL_CHUNKS = 5_000
"""An index of up to this many chunks is built in seconds."""
_GATHER_S = 3.0
_RETRY_S = 10.0
_SURVEYS = 2
_BATCH_ROWS = 200
_BATCH_S = 0.001
T = TypeVar("T")


@dataclass(slots=True)
class Standing:
    """What a search must know of a project's index."""

    folder: Path | None
    """Of the index; None if there is none."""
    gone: dict[str, set[str]]
    """By store, segments that the index holds and no search may show."""
    missing: Counter[str]
    """By store, files that were found before and are not in the index."""


@dataclass(slots=True)
class _Survey:
    """A project's rows, and what of them is on disk."""

    index: Index | None
    wanted: Contents
    """What the index should hold."""
    embedded: list[tuple[str, str]] = field(default_factory=list)
    """Store and segment of what waits for an index only."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Store and segment of what is not on disk any more."""
    anew: Counter[str] = field(default_factory=Counter)
    """By store, files that were found before and are embedded again."""
    standing: Standing = field(default_factory=lambda: Standing(None, {}, Counter()))
    chunks: int = 0

    @property
    def is_current(self) -> bool:
        """Whether the index holds what it should."""
        return self.wanted == (self.index.contents if self.index else frozenset())


class Indexing:
    """Keeps indexes current; `run` works until cancelled."""

    def __init__(
        self, database: Database, indexes: Indexes, metrics: Metrics, log: JsonLog, is_busy: Callable[[Owner], bool]
    ) -> None:
        """`is_busy` tells whether more files of a project are about to be embedded."""
        self._database = database
        self.indexes = self._indexes = indexes
        self._metrics = metrics
        self._log = log
        self._is_busy = is_busy
        self._standings: dict[Owner, Standing] = {}
        self._changed: set[Owner] = set()
        self._at_work: set[Owner] = set()
        self._more = asyncio.Event()
        self._surveys = asyncio.Semaphore(_SURVEYS)
        self._locks: dict[Owner, asyncio.Lock] = {}
        self._small, self._large = asyncio.Lock(), asyncio.Lock()
        self.on_requeued: Callable[[], None] = lambda: None
        """Called when files wait to be embedded again."""

    def changed(self, owner: Owner) -> None:
        """Call after a change of what the owner's index should hold."""
        self._changed.add(owner)
        self._more.set()

    async def standing(self, owner: Owner) -> Standing:
        """What a search of the owner must know; takes long only the first time after a start."""
        if owner not in self._standings:
            async with self._locks.setdefault(owner, asyncio.Lock()):
                if owner not in self._standings:
                    self._standings[owner] = (await self._survey(owner)).standing
                    self.changed(owner)
        return self._standings[owner]

    def mark_broken(self, owner: Owner, folder: Path) -> None:
        """The index in `folder` cannot be opened: build it anew."""
        self._indexes.mark_broken(folder)
        if (found := self._standings.get(owner)) is not None and found.folder == folder:
            del self._standings[owner]
        self.changed(owner)

    async def run(self) -> None:
        """For ever: every project once, then those with changes."""
        await self._add_everyone()
        async with asyncio.TaskGroup() as group:
            while True:
                self._more.clear()
                for owner in self._changed - self._at_work:
                    self._changed.discard(owner)
                    self._at_work.add(owner)
                    group.create_task(self._work(owner))
                await self._more.wait()

    async def _add_everyone(self) -> None:
        while True:
            try:
                async with self._database.transaction() as connection:
                    found = set(await owners(connection))
                break
            except TidegateError as error:
                self._log.write("error", "job_step_failed", reason=error.message)
                await asyncio.sleep(_RETRY_S)
        found |= {shelf.owner for shelf in await asyncio.to_thread(shelves, self._indexes.root)}
        self._changed |= found

    async def _work(self, owner: Owner) -> None:
        done = False
        try:
            await self._bring_up_to_date(owner)
            done = True
        except BuildFailed as error:
            self._metrics.count(names.INDEX_BUILDS, "failed")
            self._log.write("error", "index_build_failed", project=owner.project, reason=str(error))
        except TidegateError as error:
            self._log.write("error", "job_step_failed", reason=error.message)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task; the next try may go well
            self._log.write("error", "defect", error=type(error).__name__, where=where(error))
        if not done:
            await asyncio.sleep(_RETRY_S)
            self._changed.add(owner)
        self._at_work.discard(owner)
        self._more.set()

    async def _bring_up_to_date(self, owner: Owner) -> None:
        deadline = time.monotonic() + _GATHER_S
        while self._is_busy(owner) and time.monotonic() < deadline:  # noqa: ASYNC110 - more will come: one build for all
            await asyncio.sleep(0.1)
        self._changed.discard(owner)
        async with self._surveys:
            found = await self._survey(owner)
        self._standings[owner] = found.standing
        if found.lost:
            await self._requeue(owner, found.lost)
        if not found.is_current:
            async with self._small if found.chunks <= SMALL_CHUNKS else self._large:
                await self._rebuild(owner, found)
        for batch in _batches(found.embedded):
            async with self._database.transaction() as connection:
                await complete(connection, owner, batch)
        await self._tidy(owner)

    async def _rebuild(self, owner: Owner, found: _Survey) -> None:
        began = time.monotonic()
        old = found.index.folder if found.index else None
        try:
            folder = await self._indexes.rebuild(owner, found.wanted, old)
        except BuildFailed as error:
            if old is None:
                raise
            self._metrics.count(names.INDEX_BUILDS, "failed")
            self._log.write("error", "index_build_failed", project=owner.project, reason=str(error))
            folder = await self._indexes.rebuild(owner, found.wanted, None)
        self._standings[owner] = Standing(folder, {}, found.anew)
        self._metrics.observe(names.INDEX_BUILD_DURATION, time.monotonic() - began)
        self._metrics.count(names.INDEX_BUILDS, "done")
        held = found.index.contents if found.index else frozenset()
        added, removed = len(found.wanted - held), len(held - found.wanted)
        self._log.write("info", "index_built", project=owner.project, added=added, removed=removed)
        try:
            await self._indexes.retire(owner, old, folder)
        except TidegateError as error:
            self._log.write("warning", "index_not_closed", project=owner.project, reason=error.message)

    async def _requeue(self, owner: Owner, lost: Sequence[tuple[str, str]]) -> None:
        for batch in _batches(lost):
            async with self._database.transaction() as connection:
                await requeue(connection, owner, batch)
        self.on_requeued()

    async def _tidy(self, owner: Owner) -> None:
        """Remove segments that no row needs. Listed first: a row is written before its segment."""
        shelf = self._indexes.shelf(owner)
        there = await asyncio.to_thread(shelf.segments, unfinished=True)
        async with self._database.transaction() as connection:
            needed = await segments(connection, owner)
        if unneeded := there - needed:
            await asyncio.to_thread(shelf.delete_segments, unneeded)

    async def _survey(self, owner: Owner) -> _Survey:
        rows: list[tuple[str, str, str, str, int]] = []
        async with self._database.transaction() as connection:
            async for part in survey(connection, owner):
                rows += [(r["store_id"], r["file_id"], r["segment"], r["state"], r["chunks"]) for r in part]
        there = await asyncio.to_thread(self._indexes.shelf(owner).segments)
        index = await asyncio.to_thread(self._indexes.current, owner)
        return await _compared(rows, there, index)


async def _compared(rows: Sequence[tuple[str, str, str, str, int]], there: set[str], index: Index | None) -> _Survey:
    """What the rows, the segments on disk and the index have to do with each other."""
    held = index.contents if index else frozenset()
    found, wanted = _Survey(index, frozenset()), set[tuple[str, str, str]]()
    unindexed: Counter[str] = Counter()
    began = time.monotonic()
    for store_id, file_id, segment, state, chunks in rows:
        if state not in (EMBEDDED, COMPLETED):
            if chunks:  # it was found before, and is embedded again
                found.anew[store_id] += 1
        elif segment not in there:
            found.lost.append((store_id, segment))
            found.anew[store_id] += 1
        else:
            wanted.add((store_id, file_id, segment))
            found.chunks += chunks
            if state == EMBEDDED:
                found.embedded.append((store_id, segment))
            elif (store_id, file_id, segment) not in held:
                unindexed[store_id] += 1
        if time.monotonic() - began > _BATCH_S:
            await asyncio.sleep(0)
            began = time.monotonic()
    gone: dict[str, set[str]] = {}
    for store_id, _, segment in held - wanted:
        gone.setdefault(store_id, set()).add(segment)
    found.wanted = frozenset(wanted)
    found.standing = Standing(index.folder if index else None, gone, found.anew + unindexed)
    return found


def _batches(items: Sequence[T]) -> Iterator[list[T]]:
    """`items` in parts that one statement takes."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH_ROWS)):
        yield batch
