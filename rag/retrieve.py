"""From a question to passages: who may see what, both kinds of search, guardrails on what is found."""

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
from rag.index import Indexes
from rag.intake import count_verdicts
from rag.stores.qdrant_edge import Hit, Scope
from tidegate.errors import InvalidRequest, NotFound, Overloaded
from tidegate.store.database import Database
from tidegate.store.documents import COMPLETED, Owner, Row, searchable, stores_named
from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing

MAX_QUERY_CHARACTERS = 4_096
Vector = NDArray[np.float32]


class IndexUnavailable(Overloaded):
    """The index does not hold what it should; it is being built anew."""

    code = "index_unavailable"


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for, and where."""

    stores: Sequence[str]
    """Ids or names."""
    text: str
    limit: int


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
        self, database: Database, embedder: Embedder, indexes: Indexes, metrics: Metrics, tracing: Tracing
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._indexes = indexes
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
            vector = (await self._embedder.embed([query], Priority.QUERY))[0]
        with self._tracing.child(names.SPAN_SEARCH, span) as search:
            found = await self._search(owner, question, query, vector)
            if search is not None:
                search.set_attribute(names.PASSAGES, len(found))
        passages = ((hit, row, self._screened(policy, hit.chunk)) for hit, row in found)
        return [Passage(hit.store_id, row, chunk, hit.score) for hit, row, chunk in passages if chunk is not None]

    async def _search(self, owner: Owner, question: Question, query: str, vector: Vector) -> list[tuple[Hit, Row]]:
        store_ids, rows = await self._visible(owner, question.stores)  # from here to the hits nothing is awaited
        live = {(row["store_id"], row["segment"]): row for row in rows}
        held = self._indexes.contents(owner)
        if missing := [row for row in rows if row["state"] == COMPLETED and _entry(row) not in held]:
            raise IndexUnavailable(f"{len(missing)} documents are being indexed anew. Try again in a moment.")
        gone = [(s, g) for s, _, g in held if s in store_ids and (s, g) not in live]
        scope = Scope(owner.organisation, owner.project, tuple(store_ids), tuple(gone))
        hits = self._indexes.search(scope, query, vector, question.limit)
        return [(hit, live[(hit.store_id, hit.segment)]) for hit in hits if (hit.store_id, hit.segment) in live]

    async def _visible(self, owner: Owner, stores: Sequence[str]) -> tuple[list[str], Sequence[Row]]:
        async with self._database.transaction() as connection:
            store_ids: list[str] = []
            for name in stores:
                found = await stores_named(connection, owner, name)
                if not found:
                    raise NotFound(
                        f"There is no vector store {name[:128]!r} in this project.", code="vector_store_not_found"
                    )
                store_ids += found
            return store_ids, await searchable(connection, owner, store_ids)

    def _screened(self, policy: Policy, chunk: Chunk) -> Chunk | None:
        """The chunk as the policy lets it pass now; None if it does not."""
        screened = screen_text(policy, chunk.text, "retrieved")
        count_verdicts(self._metrics, screened.verdicts)
        if screened.refusal is not None:
            return None
        return Chunk(chunk.start, chunk.end, chunk.page, chunk.heading, screened.text)


def _entry(row: Row) -> tuple[str, str, str]:
    return row["store_id"], row["file_id"], row["segment"]
