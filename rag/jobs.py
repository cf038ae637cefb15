"""The work behind the stores: files are cut and embedded, indexes are brought to what the database says.

The database is the list of what is to be done, so nothing is lost with a process: what was being embedded is queued again at
the next start, and an index that differs from the rows is built again. A file whose embedding has ended the process several
times is given up.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np

from rag.chunking import Chunking, chunks_of
from rag.document import Chunk
from rag.embedding import Embedder, Priority
from rag.index import BuildFailed, Indexes
from rag.storage import Segment, Shelf, shelves
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
    change_store_file,
    file_ids,
    next_queued,
    owners,
    requeue_unfinished,
    searchable,
    segments,
)
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics

MAX_ATTEMPTS = 5
_EMBEDDERS = 2
_BATCH_CHUNKS = 16
_LOOK_AGAIN_S = 10.0
_GATHER_S = 3.0


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
        self._claim = asyncio.Lock()
        self._more_files = asyncio.Event()
        self._more_indexing = asyncio.Event()
        self.progress: dict[tuple[str, str], float] = {}
        """Share of a file, by store and file, that is embedded already."""

    def wake(self) -> None:
        """Call after a change of what should be in a store."""
        self._more_files.set()
        self._more_indexing.set()

    async def recover(self) -> None:
        """At start, before anything is taken in: makes good what a process that died has left."""
        async with self._database.transaction() as connection:
            await requeue_unfinished(connection)
        await self._forget_orphans()

    async def release(self) -> None:
        """After a stop in good order: what was under way is queued again and has not cost an attempt."""
        async with self._database.transaction() as connection:
            await requeue_unfinished(connection, forgive=True)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_EMBEDDERS):
                group.create_task(self._again_and_again(self._embed_next, self._more_files))
            group.create_task(self._again_and_again(self._index_next, self._more_indexing))

    async def _forget_orphans(self) -> None:
        """At start, before anything is taken in: what a process that died left without a row."""
        for shelf in await asyncio.to_thread(shelves, self._indexes.root):
            async with self._database.transaction() as connection:
                kept = await file_ids(connection, shelf.owner)
            await asyncio.to_thread(shelf.keep_documents, kept)

    async def _again_and_again(self, step: Callable[[], Awaitable[bool]], more: asyncio.Event) -> None:
        """`step` until it says that there is nothing to do, then when there may be more."""
        while True:
            more.clear()
            busy = False
            try:
                busy = await step()
            except TidegateError as error:
                self._log.write("error", "job_step_failed", reason=error.message)
            except Exception as error:  # noqa: BLE001 - nobody awaits this task; the next step may go well
                self._log.write("error", "defect", error=type(error).__name__, where=where(error))
            if not busy:
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await more.wait()
                except TimeoutError:
                    continue

    # -- files ----------------------------------------------------------------------------------------------------

    async def _embed_next(self) -> bool:
        row = await self._claim_next()
        if row is None:
            return False
        key = (row["store_id"], row["file_id"])
        self.progress[key] = 0.0
        try:
            chunks = await self._embed(row, key)
            size = sum(len(chunk.text.encode()) for chunk in chunks)
            await self._change(row, state=EMBEDDED, chunks=len(chunks), usage_bytes=size)
            self._metrics.count(names.FILES, "embedded")
        except GivenUp as error:
            await self._give_up(row, str(error))
        except FileNotFoundError:
            await self._give_up(row, "The file was deleted.")
        finally:
            self.progress.pop(key, None)
        self._more_indexing.set()
        return True

    async def _claim_next(self) -> Row | None:
        async with self._claim, self._database.transaction() as connection:
            row = await next_queued(connection)
            if row is not None:
                await change_store_file(connection, row, state=EMBEDDING, attempts=row["attempts"] + 1)
        if row is not None and row["attempts"] >= MAX_ATTEMPTS:
            await self._give_up(row, f"The service ended {MAX_ATTEMPTS} times while it worked on this file.")
            return await self._claim_next()
        return row

    async def _embed(self, row: Row, key: tuple[str, str]) -> list[Chunk]:
        shelf = self._shelf(row)
        if shelf.segment_path(row["segment"]).exists():
            known = await asyncio.to_thread(shelf.segment_path(row["segment"]).read_bytes)
            return msgspec.msgpack.decode(known, type=Segment).chunks
        chunks = await asyncio.to_thread(self._cut, shelf, row)
        rows = []
        for at in range(0, len(chunks), _BATCH_CHUNKS):
            texts = [chunk.shown() for chunk in chunks[at : at + _BATCH_CHUNKS]]
            rows.append(await self._embedder.embed(texts, Priority.INGESTION))
            self.progress[key] = (at + len(texts)) / len(chunks)
        vectors = np.concatenate(rows).astype(np.float32).tobytes()
        await asyncio.to_thread(shelf.put_segment, row["segment"], Segment(chunks, vectors))
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
        return self._indexes.shelf(Owner(row["organisation"], row["project"]))

    # -- indexes --------------------------------------------------------------------------------------------------

    async def _index_next(self) -> bool:
        """One round over all projects; False, since the next round waits for a change."""
        deadline = time.monotonic() + _GATHER_S
        while self.progress and time.monotonic() < deadline:  # noqa: ASYNC110 - more will come: one build for all
            await asyncio.sleep(0.1)
        async with self._database.transaction() as connection:
            everyone = set(await owners(connection))
        everyone |= {shelf.owner for shelf in await asyncio.to_thread(shelves, self._indexes.root)}
        for owner in sorted(everyone, key=lambda owner: (owner.organisation, owner.project)):
            try:
                await self._bring_up_to_date(owner)
            except BuildFailed as error:
                self._metrics.count(names.INDEX_BUILDS, "failed")
                self._log.write("error", "index_build_failed", project=owner.project, reason=str(error))
        return False

    async def _bring_up_to_date(self, owner: Owner) -> None:
        rows = await self._with_segments(owner)
        wanted = frozenset((row["store_id"], row["file_id"], row["segment"]) for row in rows)
        held = self._indexes.contents(owner)
        if wanted != held:
            began = time.monotonic()
            await self._indexes.rebuild(owner, wanted)
            self._metrics.observe(names.INDEX_BUILD_DURATION, time.monotonic() - began)
            self._metrics.count(names.INDEX_BUILDS, "done")
            self._log.write(
                "info", "index_built", project=owner.project, added=len(wanted - held), removed=len(held - wanted)
            )
        async with self._database.transaction() as connection:
            for row in rows:
                if row["state"] == EMBEDDED:
                    await change_store_file(connection, row, state=COMPLETED)
            needed = await segments(connection, owner)
        if wanted != held:
            await asyncio.to_thread(self._indexes.shelf(owner).keep_segments, needed)

    async def _with_segments(self, owner: Owner) -> list[Row]:
        """What the owner's index should hold; a row whose segment is lost is queued again."""
        shelf = self._indexes.shelf(owner)
        async with self._database.transaction() as connection:
            rows = await searchable(connection, owner, None)
            there = [row for row in rows if shelf.segment_path(row["segment"]).exists()]
            for row in rows:
                if row not in there:
                    await change_store_file(connection, row, state="queued", attempts=0)
                    self._more_files.set()
        return there
