"""The work behind the stores: files are cut and embedded; `indexing.py` then brings their projects' indexes up to date.

The database is the list of what is to be done, so nothing is lost with a process: what was being embedded is queued again at
the next start, and so is what another embedder has embedded. Projects take turns. A file whose embedding has ended the process
several times is given up.
"""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import numpy as np

from rag.chunking import Chunking, chunks_of
from rag.document import Chunk
from rag.embedding import Embedder, Priority
from rag.index import Indexes
from rag.indexing import Indexing
from rag.storage import Segment, Shelf, segment_name, shelves
from tidegate.errors import TidegateError
from tidegate.serving.http import where
from tidegate.store.database import Database
from tidegate.store.documents import (
    COMPLETED,
    EMBEDDED,
    EMBEDDING,
    FAILED,
    Owner,
    Row,
    all_segments,
    change_store_file,
    file_ids,
    next_queued,
    rename_segments,
    requeue_unfinished,
)
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics

MAX_ATTEMPTS = 5
_FILES_AT_ONCE = 16
"""Of all projects; the embedder takes turns between them."""
_FILES_OF_PROJECT = 2
"""At once, while there is room."""
_BATCH_ROWS = 200
_BATCH_CHUNKS = 16
_LOOK_AGAIN_S = 10.0


class GivenUp(Exception):
    """The file cannot be brought into the store; the message is for the caller."""


class Jobs:
    """Works until cancelled."""

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        indexes: Indexes,
        metrics: Metrics,
        log: JsonLog,
        *,
        max_chunks: int,
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._indexes = indexes
        self._metrics = metrics
        self._log = log
        self._max_chunks = max_chunks
        self._more_files = asyncio.Event()
        self._in_work: Counter[Owner] = Counter()
        self._last: Owner | None = None
        """The project that had the last turn."""
        self.indexing = Indexing(database, indexes, metrics, log, is_busy=self._in_work.__contains__)
        self.indexing.on_requeued = self._more_files.set
        self.progress: dict[tuple[str, str], float] = {}
        """Share of a file, by store and file, that is embedded already."""

    def wake(self, owner: Owner) -> None:
        """Call after a change of what should be in a store of the owner."""
        self._more_files.set()
        self.indexing.changed(owner)

    async def recover(self) -> None:
        """At start, before anything is taken in: makes good what a process that died has left."""
        async with self._database.transaction() as connection:
            await requeue_unfinished(connection)
        await self._requeue_outdated()
        await self._forget_orphans()

    async def release(self) -> None:
        """After a stop in good order: what was under way is queued again and has not cost an attempt."""
        async with self._database.transaction() as connection:
            await requeue_unfinished(connection, forgive=True)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.indexing.run())
            while True:
                self._more_files.clear()
                row = await self._next()
                if row is not None:
                    group.create_task(self._work_on(row))
                    continue
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await self._more_files.wait()
                except TimeoutError:
                    continue

    async def _requeue_outdated(self) -> None:
        """Queues what another embedder has embedded: vectors of two embedders do not compare."""
        outdated: list[tuple[Row, str]] = []
        async with self._database.transaction() as connection:
            async for rows in all_segments(connection):
                named = ((r, segment_name(r["file_id"], r["chunking"], self._embedder.embedder_id)) for r in rows)
                outdated += [(row, name) for row, name in named if row["segment"] != name]
        for at in range(0, len(outdated), _BATCH_ROWS):
            async with self._database.transaction() as connection:
                await rename_segments(connection, outdated[at : at + _BATCH_ROWS])
        if outdated:
            self._log.write("warning", "embedder_changed", files=len(outdated), embedder=self._embedder.embedder_id)

    async def _forget_orphans(self) -> None:
        """At start, before anything is taken in: what a process that died left without a row."""
        for shelf in await asyncio.to_thread(shelves, self._indexes.root):
            async with self._database.transaction() as connection:
                kept = await file_ids(connection, shelf.owner)
            await asyncio.to_thread(shelf.keep_documents, kept)

    async def _next(self) -> Row | None:
        """The next file, which counts as in work from here on; None if there is none, or no room for it."""
        try:
            row = await self._claim_next()
        except TidegateError as error:
            self._log.write("error", "job_step_failed", reason=error.message)
            return None
        if row is not None:
            self._in_work[_owner_of(row)] += 1
        return row

    async def _claim_next(self) -> Row | None:
        taken = self._in_work.total()
        share = _FILES_OF_PROJECT if taken < _FILES_AT_ONCE // 2 else 1
        if taken >= _FILES_AT_ONCE:
            return None
        full = [owner for owner, count in self._in_work.items() if count >= share]
        async with self._database.transaction() as connection:
            row = await next_queued(connection, self._last, full)
            if row is not None:
                await change_store_file(connection, row, state=EMBEDDING, attempts=row["attempts"] + 1)
        if row is not None:
            self._last = _owner_of(row)
            if row["attempts"] >= MAX_ATTEMPTS:
                await self._give_up(row, f"The service ended {MAX_ATTEMPTS} times while it worked on this file.")
                return await self._claim_next()
        return row

    async def _work_on(self, row: Row) -> None:
        owner = _owner_of(row)
        try:
            await self._embed_row(row)
        except TidegateError as error:
            self._log.write("error", "job_step_failed", reason=error.message)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task; the next file may go well
            self._log.write("error", "defect", error=type(error).__name__, where=where(error))
        finally:
            self._in_work[owner] -= 1
            if not self._in_work[owner]:
                del self._in_work[owner]
            self._more_files.set()
            self.indexing.changed(owner)

    async def _embed_row(self, row: Row) -> None:
        key = (row["store_id"], row["file_id"])
        self.progress[key] = 0.0
        state = COMPLETED if row["chunks"] else EMBEDDED  # where it was found before, searches wait for the index
        try:
            chunks = await self._embed(row, key)
            size = sum(len(chunk.text.encode()) for chunk in chunks)
            await self._change(row, state=state, chunks=len(chunks), usage_bytes=size)
            self._metrics.count(names.FILES, "embedded")
        except GivenUp as error:
            await self._give_up(row, str(error))
        except FileNotFoundError:
            await self._give_up(row, "The file was deleted.")
        finally:
            self.progress.pop(key, None)

    async def _embed(self, row: Row, key: tuple[str, str]) -> list[Chunk]:
        shelf = self._shelf(row)
        if shelf.segment_path(row["segment"]).exists():
            return await asyncio.to_thread(lambda: shelf.segment(row["segment"]).chunks)
        chunks = await asyncio.to_thread(self._cut, shelf, row)
        rows = []
        for at in range(0, len(chunks), _BATCH_CHUNKS):
            texts = [chunk.shown() for chunk in chunks[at : at + _BATCH_CHUNKS]]
            rows.append(await self._embedder.embed(texts, Priority.INGESTION, shelf.owner))
            self.progress[key] = (at + len(texts)) / len(chunks)
        vectors = np.concatenate(rows).astype(np.float32).tobytes()
        await asyncio.to_thread(shelf.put_segment, row["segment"], Segment(chunks, vectors, self._embedder.embedder_id))
        return chunks

    def _cut(self, shelf: Shelf, row: Row) -> list[Chunk]:
        how = msgspec.json.decode(row["chunking"], type=Chunking)
        found: list[Chunk] = []
        for chunk in chunks_of(shelf.document(row["file_id"]), how, self._embedder.token_starts):
            found.append(chunk)
            if len(found) > self._max_chunks:
                raise GivenUp(f"The file has more than the {self._max_chunks} chunks allowed.")
        if not found:
            raise GivenUp("The file holds no text.")
        return found

    async def _give_up(self, row: Row, reason: str) -> None:
        await self._change(row, state=FAILED, error=reason)
        self._metrics.count(names.FILES, "failed")
        self._log.write("warning", "file_given_up", file_id=row["file_id"], store_id=row["store_id"], reason=reason)

    async def _change(self, row: Row, **values: Any) -> None:
        async with self._database.transaction() as connection:
            await change_store_file(connection, row, **values)

    def _shelf(self, row: Row) -> Shelf:
        return self._indexes.shelf(_owner_of(row))


def _owner_of(row: Row) -> Owner:
    return Owner(row["organisation"], row["project"])
