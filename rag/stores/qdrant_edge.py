"""The embedded Qdrant engine: an index is a folder, complete when it is made and never written again.

The engine holds Python's interpreter lock in every call, minutes in `optimize()` of a large index, and lets one process only
open a folder. So an index is filled by one child process (`rag/build.py`) and searched by another (`rag/search_worker.py`).
Searches are dense and BM25, fused by reciprocal rank; BM25's word statistics are those of what the caller may see.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from rag.document import Chunk

FORMAT = "qdrant-edge-0.9/1"
"""Indexes of another format are built anew."""
_RRF_K = 60
_BATCH = 500
_OWNER_FIELDS = ("organisation", "project", "store_id", "segment")
_PAYLOAD = ["store_id", "segment", "start", "end", "page", "heading", "text"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a search may see. Every search has one; there is no way to search without."""

    organisation: str
    project: str
    store_ids: tuple[str, ...]
    without: tuple[tuple[str, str], ...] = ()
    """Store and segment of files that were taken out since the index was built."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found."""

    store_id: str
    segment: str
    chunk: Chunk
    score: float
    """1.0 is first both by meaning and by words; comparable within one search only."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk of one file in one store, to be indexed."""

    store_id: str
    file_id: str
    segment: str
    ordinal: int
    chunk: Chunk
    vector: NDArray[np.float32]


class EdgeIndex:
    """An index that is searched."""

    def __init__(self, folder: str) -> None:
        self._shard = edge.EdgeShard.load(folder)
        self._bm25 = _bm25()

    def search(self, scope: Scope, query: str, vector: NDArray[np.float32], limit: int) -> list[Hit]:
        """The best `limit` chunks in `scope`; one to five milliseconds."""
        only = compile_scope(scope)
        words = self._bm25.embed_query(query)
        idf = edge.SearchParams(idf=edge.IdfParams(corpus=only))
        depth = max(40, 2 * limit)
        dense = edge.Prefetch(depth, query=edge.Query.Nearest(vector.tolist(), using="dense"), filter=only)
        sparse = edge.Prefetch(depth, query=edge.Query.Nearest(words, using="bm25"), filter=only, params=idf)
        request = edge.QueryRequest(
            depth,
            prefetches=[dense, sparse] if words.indices else [dense],
            query=edge.Fusion.Rrf(_RRF_K),  # type: ignore[arg-type]  # the stub forgets its own enum
            filter=only,
            with_payload=_PAYLOAD,
        )
        hits = [_hit(point) for point in self._shard.query(request)]
        return sorted(hits, key=_order)[:limit]

    def close(self) -> None:
        """Lets go of the folder."""
        self._shard.close()


class EdgeBuilder:
    """An index that is being filled, in a process of its own."""

    def __init__(self, folder: Path, dimensions: int, organisation: str, project: str) -> None:
        self._owner = {"organisation": organisation, "project": project}
        self._bm25 = _bm25()
        if any(folder.iterdir()):
            self._shard = edge.EdgeShard.load(str(folder))
            return
        config = edge.EdgeConfig(
            hnsw_config=edge.HnswIndexConfig(
                m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=1
            ),
            vectors={"dense": edge.EdgeVectorParams(dimensions, edge.Distance.Cosine)},
            sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        )
        self._shard = edge.EdgeShard.create(str(folder), config)
        for field in _OWNER_FIELDS:
            index = edge.KeywordIndexParams(is_tenant=field == "store_id")
            self._shard.update(edge.UpdateOperation.create_field_index(field, index))

    def add(self, entries: Iterable[Entry]) -> None:
        """Adds chunks; the same chunk again changes nothing."""
        batch: list[edge.Point] = []
        for entry in entries:
            batch.append(self._point(entry))
            if len(batch) == _BATCH:
                self._shard.update(edge.UpdateOperation.upsert_points(batch))
                batch = []
        if batch:
            self._shard.update(edge.UpdateOperation.upsert_points(batch))

    def finish(self) -> None:
        """Makes it fast to search and durable."""
        self._shard.optimize()
        self._shard.flush()
        self._shard.close()

    def _point(self, entry: Entry) -> edge.Point:
        chunk = entry.chunk
        payload = self._owner | {
            "store_id": entry.store_id,
            "file_id": entry.file_id,
            "segment": entry.segment,
            "start": chunk.start,
            "end": chunk.end,
            "page": chunk.page,
            "heading": chunk.heading,
            "text": chunk.text,
        }
        name = f"{entry.store_id}/{entry.segment}/{entry.ordinal}"
        vector = {"dense": entry.vector.tolist(), "bm25": self._bm25.embed_document(chunk.shown())}
        return edge.Point(str(uuid.uuid5(uuid.NAMESPACE_OID, name)), vector, payload)


def compile_scope(scope: Scope) -> edge.Filter:
    """The filter that every search carries, in both legs and in the word statistics."""
    without: dict[str, list[str]] = {}
    for store, segment in scope.without:
        without.setdefault(store, []).append(segment)
    gone: list[Any] = [
        edge.Filter(must=[_is("store_id", store), edge.FieldCondition("segment", match=edge.MatchAny(segments))])
        for store, segments in without.items()
    ]
    return edge.Filter(
        must=[
            _is("organisation", scope.organisation),
            _is("project", scope.project),
            edge.FieldCondition("store_id", match=edge.MatchAny(list(scope.store_ids))),
        ],
        must_not=gone or None,
    )


def _is(field: str, value: str) -> edge.FieldCondition:
    return edge.FieldCondition(field, match=edge.MatchValue(value))


def _bm25() -> edge.Bm25:
    return edge.Bm25(edge.Bm25Config(language="english", avg_len=120))


def _order(hit: Hit) -> tuple[float, str, str, int]:
    """Best first; the fusion of ranks gives equal scores often, and the engine no order among them."""
    return -hit.score, hit.store_id, hit.segment, hit.chunk.start


def _hit(point: Any) -> Hit:
    payload = point.payload
    chunk = Chunk(payload["start"], payload["end"], payload.get("page"), payload.get("heading"), payload["text"])
    return Hit(payload["store_id"], payload["segment"], chunk, round(min(1.0, point.score * _RRF_K / 2), 4))
