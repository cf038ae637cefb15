"""From a question to passages: who may see what, both kinds of search, guardrails on what is found."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import Span

from guardrails.engine.policy import Policy
from guardrails.engine.texts import screen_text
from rag.document import Chunk
from rag.embedding import Embedder, Priority
from rag.index import IndexBroken, IndexUnavailable
from rag.indexing import Indexing
from rag.intake import count_verdicts
from rag.stores.qdrant_edge import Hit, Scope
from tidegate.errors import InvalidRequest, NotFound
from tidegate.store.database import Database
from tidegate.store.documents import Owner, Row, rows_found, stores_named
from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing

MAX_QUERY_CHARACTERS = 4_096
_MOST_ROUNDS = 5
_MOST_DEPTH = 200
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for, and where."""

    stores: Sequence[str]
    """Ids, or also names if `by_name`."""
    text: str
    limit: int
    by_name: bool = True


@dataclass(frozen=True, slots=True)
class Passage:
    """What was found, and where it stands."""

    store_id: str
    file: Row
    """Its row in the store, with the file's name."""
    chunk: Chunk
    score: float

    def attributes(self) -> dict[str, Any]:
        """What the caller has noted about the file."""
        found: dict[str, Any] = json.loads(self.file["attributes"])
        return found


class Retriever:
    """Searches on behalf of a caller."""

    def __init__(
        self, database: Database, embedder: Embedder, indexing: Indexing, metrics: Metrics, tracing: Tracing
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._indexing = indexing
        self._indexes = indexing.indexes
        self._metrics = metrics
        self._tracing = tracing

    async def search(self, owner: Owner, policy: Policy, question: Question, span: Span | None) -> list[Passage]:
        """The best passages in stores of the owner, best first; `span` is the request's, if it is traced.

        Raises:
            NotFound: the owner has no such store.
            InvalidRequest: the query is empty or too long.
            IndexUnavailable: the index is being built anew.
        """
        query = question.text.strip()
        if not query or len(query) > MAX_QUERY_CHARACTERS:
            raise InvalidRequest(f"The query must have 1 to {MAX_QUERY_CHARACTERS} characters.", param="query")
        with self._tracing.child(names.SPAN_EMBED, span):
            vector = (await self._embedder.embed([query], Priority.QUERY, owner))[0]
        with self._tracing.child(names.SPAN_SEARCH, span) as search:
            found = await self._search(owner, question, query, vector)
            if search is not None:
                search.set_attribute(names.PASSAGES, len(found))
        passages = []
        for hit, row in found:
            if (chunk := self._screened(policy, hit.chunk)) is not None:
                passages.append(Passage(hit.store_id, row, chunk, hit.score))
            await asyncio.sleep(0)  # one chunk at a time: each takes less than a millisecond
        return passages

    async def _search(self, owner: Owner, question: Question, query: str, vector: Vector) -> list[tuple[Hit, Row]]:
        """What the index holds, as far as the database says now that it may be shown."""
        store_ids = await self._stores(owner, question)
        if not store_ids:
            return []
        depth, found = question.limit, None
        for _ in range(_MOST_ROUNDS):
            standing = await self._indexing.standing(owner)
            if missing := sum(standing.missing[store_id] for store_id in store_ids):
                raise IndexUnavailable(f"{missing} documents are being indexed anew. Try again in a moment.")
            if standing.folder is None:
                return []
            gone = [(store_id, segment) for store_id in store_ids for segment in standing.gone.get(store_id, ())]
            scope = Scope(owner.organisation, owner.project, tuple(store_ids), tuple(gone))
            try:
                hits = await self._indexes.search(standing.folder, scope, query, vector, depth)
            except IndexBroken:
                if (await self._indexing.standing(owner)).folder == standing.folder:
                    self._indexing.mark_broken(owner, standing.folder)
                continue
            found, dead = await self._alive(owner, hits)
            if not dead or len(found) >= question.limit:
                break
            for store_id, segment in dead:  # taken out a moment ago: others come in their places
                standing.gone.setdefault(store_id, set()).add(segment)
            depth = min(4 * depth, _MOST_DEPTH)
        if found is None:
            raise IndexUnavailable("The index is being built anew. Try again in a moment.")
        return found[: question.limit]

    async def _alive(self, owner: Owner, hits: Sequence[Hit]) -> tuple[list[tuple[Hit, Row]], set[tuple[str, str]]]:
        """The hits whose files are still there, and store and segment of the others."""
        keys = {(hit.store_id, hit.segment) for hit in hits}
        if not keys:
            return [], set()
        async with self._database.transaction() as connection:
            rows = await rows_found(connection, owner, sorted(keys))
        live = {(row["store_id"], row["segment"]): row for row in rows}
        found = [(hit, live[key]) for hit in hits if (key := (hit.store_id, hit.segment)) in live]
        return found, keys - live.keys()

    async def _stores(self, owner: Owner, question: Question) -> list[str]:
        """Ids of the stores that the question names.

        Raises:
            NotFound: the owner has no such store.
        """
        async with self._database.transaction() as connection:
            rows = await stores_named(connection, owner, question.stores, by_name=question.by_name)
        known = {row["store_id"] for row in rows}
        if question.by_name:
            known |= {row["name"] for row in rows}
        for name in question.stores:
            if name not in known:
                raise NotFound(
                    f"There is no vector store {name[:128]!r} in this project.", code="vector_store_not_found"
                )
        return [row["store_id"] for row in rows]

    def _screened(self, policy: Policy, chunk: Chunk) -> Chunk | None:
        """The chunk as the policy lets it pass now; None if it does not."""
        screened = screen_text(policy, chunk.text, "retrieved")
        count_verdicts(self._metrics, screened.verdicts)
        if screened.refusal is not None:
            return None
        return Chunk(chunk.start, chunk.end, chunk.page, chunk.heading, screened.text)
