"""`/v1/vector_stores`. Source: https://platform.openai.com/docs/api-reference/vector-stores."""

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request

from rag.api.files import find_file, text_of
from rag.api.parts import as_list, owner_of, page_of, pairs, parts_of, read_json
from rag.chunking import MOST_TOKENS, Chunking
from rag.storage import segment_name
from tidegate.errors import InvalidRequest, NotFound
from tidegate.store import documents
from tidegate.store.documents import COMPLETED, EMBEDDED, EMBEDDING, FAILED, QUEUED, Row

router = APIRouter(prefix="/v1/vector_stores")
_STATES = {
    "in_progress": (QUEUED, EMBEDDING, EMBEDDED),
    "completed": (COMPLETED,),
    "failed": (FAILED,),
    "cancelled": ("-",),
}
_STATUS = {state: status for status, states in _STATES.items() for state in states}
_MOST_FILES = 500


class Static(Struct):
    """`chunking_strategy.static`."""

    max_chunk_size_tokens: int = Chunking().max_tokens
    chunk_overlap_tokens: int = Chunking().overlap_tokens


class Strategy(Struct):
    """`chunking_strategy`."""

    type: str
    static: Static | None = None


class CreateStore(Struct):
    """Body of `POST /v1/vector_stores`."""

    name: str | None = None
    file_ids: list[str] = []
    metadata: dict[str, Any] | None = None
    chunking_strategy: Strategy | None = None
    expires_after: Any = None


class ChangeStore(Struct):
    """Body of `POST /v1/vector_stores/{id}`."""

    name: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    expires_after: Any = None


class AddFile(Struct):
    """Body of `POST /v1/vector_stores/{id}/files`."""

    file_id: str
    attributes: dict[str, Any] | None = None
    chunking_strategy: Strategy | None = None


class ChangeFile(Struct):
    """Body of `POST /v1/vector_stores/{id}/files/{file_id}`."""

    attributes: dict[str, Any] | None = None


@router.post("", response_model=None)
async def create(request: Request) -> dict[str, Any]:
    """A new store, with files if any are named."""
    body = await read_json(request, CreateStore)
    _refuse_expiry(body.expires_after)
    if len(body.file_ids) > _MOST_FILES:
        raise InvalidRequest(f"At most {_MOST_FILES} files can be named at once.", param="file_ids")
    chunking = _chunking(body.chunking_strategy)
    for file_id in body.file_ids:
        await find_file(request, file_id)
    async with parts_of(request).database.transaction() as connection:
        store_id = await documents.add_store(
            connection, owner_of(request), _name(body.name), pairs("metadata", body.metadata)
        )
    for file_id in dict.fromkeys(body.file_ids):
        await _queue(request, store_id, file_id, "{}", chunking)
    return await _shown(request, store_id)


@router.get("", response_model=None)
async def list_stores(request: Request) -> dict[str, Any]:
    """The project's stores."""
    page, owner = page_of(request), owner_of(request)
    async with parts_of(request).database.transaction() as connection:
        rows = await documents.list_stores(connection, owner, page)
        counts = await documents.count_states(connection, owner, [row["store_id"] for row in rows])
    return as_list(rows, page, lambda row: _show_store(row, counts))


@router.get("/{store_id}", response_model=None)
async def retrieve(request: Request, store_id: str) -> dict[str, Any]:
    """One store."""
    return await _shown(request, store_id)


@router.post("/{store_id}", response_model=None)
async def change(request: Request, store_id: str) -> dict[str, Any]:
    """Changes name or metadata."""
    body = await read_json(request, ChangeStore)
    _refuse_expiry(body.expires_after)
    values: dict[str, Any] = {"last_active_at": time.time()}
    if body.name is not UNSET:
        values["name"] = _name(body.name)
    if body.metadata is not UNSET:
        values["metadata"] = pairs("metadata", body.metadata)
    async with parts_of(request).database.transaction() as connection:
        if not await documents.change_store(connection, owner_of(request), store_id, **values):
            raise _no_store(store_id)
    return await _shown(request, store_id)


@router.delete("/{store_id}", response_model=None)
async def delete(request: Request, store_id: str) -> dict[str, Any]:
    """Deletes a store; its files stay files."""
    async with parts_of(request).database.transaction() as connection:
        if not await documents.delete_store(connection, owner_of(request), store_id):
            raise _no_store(store_id)
    parts_of(request).jobs.wake(owner_of(request))
    return {"id": store_id, "object": "vector_store.deleted", "deleted": True}


@router.post("/{store_id}/files", response_model=None)
async def add_file(request: Request, store_id: str) -> dict[str, Any]:
    """Queues a file for the store; done anew if it is there already."""
    body = await read_json(request, AddFile)
    attributes, chunking = pairs("attributes", body.attributes), _chunking(body.chunking_strategy)
    await _find_store(request, store_id)
    await find_file(request, body.file_id)
    await _queue(request, store_id, body.file_id, attributes, chunking)
    return await _shown_file(request, store_id, body.file_id)


@router.get("/{store_id}/files", response_model=None)
async def list_files(request: Request, store_id: str) -> dict[str, Any]:
    """The store's files."""
    await _find_store(request, store_id)
    page, status = page_of(request), request.query_params.get("filter")
    if status is not None and status not in _STATES:
        raise InvalidRequest(f"`filter` must be one of {sorted(_STATES)}.", param="filter")
    states: Sequence[str] = _STATES[status] if status else ()
    async with parts_of(request).database.transaction() as connection:
        rows = await documents.list_store_files(connection, owner_of(request), store_id, page, states)
    return as_list(rows, page, lambda row: _show_file(request, row))


@router.get("/{store_id}/files/{file_id}", response_model=None)
async def retrieve_file(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """One file of the store: how far it is."""
    return await _shown_file(request, store_id, file_id)


@router.post("/{store_id}/files/{file_id}", response_model=None)
async def change_file(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """Changes a file's attributes."""
    attributes = pairs("attributes", (await read_json(request, ChangeFile)).attributes)
    row = await _find_store_file(request, store_id, file_id)
    async with parts_of(request).database.transaction() as connection:
        await documents.change_store_file(connection, row, attributes=attributes)
    return await _shown_file(request, store_id, file_id)


@router.delete("/{store_id}/files/{file_id}", response_model=None)
async def delete_file(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """Takes a file out of the store: no search of it finds it from here on."""
    async with parts_of(request).database.transaction() as connection:
        if not await documents.delete_store_file(connection, owner_of(request), store_id, file_id):
            raise _no_file(store_id, file_id)
    parts_of(request).jobs.wake(owner_of(request))
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.get("/{store_id}/files/{file_id}/content", response_model=None)
async def content(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """The text that was read."""
    await _find_store_file(request, store_id, file_id)
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": await text_of(request, file_id)}],
        "has_more": False,
        "next_page": None,
    }


async def _queue(request: Request, store_id: str, file_id: str, attributes: str, chunking: str) -> None:
    parts, owner = parts_of(request), owner_of(request)
    row = {
        "store_id": store_id,
        "file_id": file_id,
        "segment": segment_name(file_id, chunking, parts.embedder.embedder_id),
        "attributes": attributes,
        "chunking": chunking,
    }
    async with parts.database.transaction() as connection:
        await documents.put_store_file(connection, owner, row)
        await documents.change_store(connection, owner, store_id, last_active_at=time.time())
    parts.jobs.wake(owner)


def _chunking(given: Strategy | None) -> str:
    """The strategy as it is kept.

    Raises:
        InvalidRequest: unknown, or of a size that the embedder does not read.
    """
    if given is None or given.type == "auto":
        return msgspec.json.encode(Chunking()).decode()
    sizes = given.static
    if given.type != "static" or sizes is None:
        raise InvalidRequest("`chunking_strategy.type` must be auto or static.", param="chunking_strategy")
    most, overlap = sizes.max_chunk_size_tokens, sizes.chunk_overlap_tokens
    if not 32 <= most <= MOST_TOKENS or not 0 <= overlap <= most // 2:
        raise InvalidRequest(
            f"`max_chunk_size_tokens` must be 32 to {MOST_TOKENS}, which is what the embedder reads, and "
            "`chunk_overlap_tokens` at most half of it.",
            param="chunking_strategy",
        )
    return msgspec.json.encode(Chunking(most, overlap)).decode()


def _name(name: str | None) -> str:
    if name is not None and len(name) > 256:
        raise InvalidRequest("`name` may have 256 characters.", param="name")
    return name or ""


def _refuse_expiry(expires_after: Any) -> None:
    if expires_after is not None:
        raise InvalidRequest("`expires_after` is not offered yet. Leave it out.", param="expires_after")


async def _find_store(request: Request, store_id: str) -> Row:
    async with parts_of(request).database.transaction() as connection:
        row = await documents.get_store(connection, owner_of(request), store_id)
    if row is None:
        raise _no_store(store_id)
    return row


async def _find_store_file(request: Request, store_id: str, file_id: str) -> Row:
    async with parts_of(request).database.transaction() as connection:
        row = await documents.get_store_file(connection, owner_of(request), store_id, file_id)
    if row is None:
        raise _no_file(store_id, file_id)
    return row


async def _shown(request: Request, store_id: str) -> dict[str, Any]:
    row = await _find_store(request, store_id)
    async with parts_of(request).database.transaction() as connection:
        counts = await documents.count_states(connection, owner_of(request), [store_id])
    return _show_store(row, counts)


async def _shown_file(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    return _show_file(request, await _find_store_file(request, store_id, file_id))


def _show_store(row: Row, counts: Sequence[Row]) -> dict[str, Any]:
    """OpenAI's vector store object."""
    mine = [count for count in counts if count["store_id"] == row["store_id"]]
    files = {status: sum(c["files"] for c in mine if c["state"] in states) for status, states in _STATES.items()}
    return {
        "id": row["store_id"],
        "object": "vector_store",
        "created_at": int(row["created_at"]),
        "name": row["name"],
        "usage_bytes": sum(int(count["usage_bytes"]) for count in mine),
        "file_counts": {**files, "total": sum(files.values())},
        "status": "in_progress" if files["in_progress"] else "completed",
        "last_active_at": int(row["last_active_at"]),
        "metadata": json.loads(row["metadata"]),
        "expires_after": None,
        "expires_at": None,
    }


def _show_file(request: Request, row: Row) -> dict[str, Any]:
    """OpenAI's vector store file object, with `progress` from 0 to 1 in addition."""
    how = msgspec.json.decode(row["chunking"], type=Chunking)
    sizes = {"max_chunk_size_tokens": how.max_tokens, "chunk_overlap_tokens": how.overlap_tokens}
    done = {QUEUED: 0.0, EMBEDDED: 1.0, COMPLETED: 1.0}.get(row["state"])
    progress = parts_of(request).jobs.progress.get((row["store_id"], row["file_id"]), 0.0) if done is None else done
    return {
        "id": row["file_id"],
        "object": "vector_store.file",
        "created_at": int(row["created_at"]),
        "vector_store_id": row["store_id"],
        "usage_bytes": row["usage_bytes"],
        "status": _STATUS[row["state"]],
        "last_error": {"code": "invalid_file", "message": row["error"]} if row["error"] else None,
        "attributes": json.loads(row["attributes"]),
        "chunking_strategy": {"type": "static", "static": sizes},
        "progress": round(progress, 3),
    }


def _no_store(store_id: str) -> NotFound:
    return NotFound(f"There is no vector store {store_id[:64]!r} in this project.", param="vector_store_id")


def _no_file(store_id: str, file_id: str) -> NotFound:
    return NotFound(f"There is no file {file_id[:64]!r} in vector store {store_id[:64]!r}.", param="file_id")
