"""Searches: one store as in OpenAI's API, several stores at once, and what the gateway asks for presets.

Several stores are always one search: scores of two searches do not compare, so results of two searches cannot be merged.
Source: https://platform.openai.com/docs/api-reference/vector-stores/search.
"""

from typing import Any

from fastapi import APIRouter
from msgspec import Struct
from starlette.requests import Request

from rag.api.parts import owner_of, parts_of, read_json
from rag.retrieve import Passage, Question
from tidegate.errors import InvalidRequest
from tidegate.serving.door import caller_of, span_of

router = APIRouter()
_MOST_STORES = 1_000
_MOST_RESULTS = 50


class Search(Struct):
    """Body of `POST /v1/vector_stores/{id}/search`."""

    query: str | list[str]
    max_num_results: int = 10
    rewrite_query: bool | None = False
    filters: Any = None
    ranking_options: dict[str, Any] | None = None


class SearchSeveral(Search, kw_only=True):
    """Body of `POST /v1/vector_stores/search`."""

    vector_store_ids: list[str]


class SearchForPreset(Struct):
    """Body of `POST /internal/search`."""

    vector_stores: list[str]
    query: str
    max_results: int


@router.post("/v1/vector_stores/search", response_model=None)
async def search_several(request: Request) -> dict[str, Any]:
    """The best passages for a question in several stores. An addition to OpenAI's API."""
    body = await read_json(request, SearchSeveral)
    if not 1 <= len(body.vector_store_ids) <= _MOST_STORES:
        raise InvalidRequest(f"`vector_store_ids` must name 1 to {_MOST_STORES} stores.", param="vector_store_ids")
    return await _page(request, body.vector_store_ids, body)


@router.post("/v1/vector_stores/{store_id}/search", response_model=None)
async def search_one(request: Request, store_id: str) -> dict[str, Any]:
    """The best passages for a question in one store."""
    return await _page(request, [store_id], await read_json(request, Search))


@router.post("/internal/search", response_model=None)
async def search_for_preset(request: Request) -> dict[str, Any]:
    """The best passages for a question, in stores named by id or by name, with everything that a citation needs."""
    body = await read_json(request, SearchForPreset)
    if not 1 <= body.max_results <= _MOST_RESULTS or not 1 <= len(body.vector_stores) <= 64:
        raise InvalidRequest(f"`max_results` must be 1 to {_MOST_RESULTS}, `vector_stores` 1 to 64 names.")
    return {"data": await _found(request, Question(body.vector_stores, body.query, body.max_results))}


async def _page(request: Request, store_ids: list[str], body: Search) -> dict[str, Any]:
    """OpenAI's page of results.

    Raises:
        InvalidRequest: an option that is not offered, or out of range.
        NotFound: the project has no such store.
    """
    for name in ("filters", "ranking_options", "rewrite_query"):
        if getattr(body, name):
            raise InvalidRequest(f"`{name}` is not offered yet. Leave it out.", param=name)
    if not 1 <= body.max_num_results <= _MOST_RESULTS:
        raise InvalidRequest(f"`max_num_results` must be 1 to {_MOST_RESULTS}.", param="max_num_results")
    query = body.query if isinstance(body.query, str) else " ".join(body.query)
    question = Question(store_ids, query, body.max_num_results, by_name=False)
    return {
        "object": "vector_store.search_results.page",
        "search_query": [query],
        "data": await _found(request, question),
        "has_more": False,
        "next_page": None,
    }


async def _found(request: Request, question: Question) -> list[dict[str, Any]]:
    parts = parts_of(request)
    policy = await parts.policies.named(caller_of(request).policy)
    found = await parts.retriever.search(owner_of(request), policy, question, span_of(request))
    return [show_passage(passage) for passage in found]


def show_passage(passage: Passage) -> dict[str, Any]:
    """OpenAI's search result, and where in the file's text it stands: characters `start` to `end`, exclusive."""
    chunk = passage.chunk
    return {
        "file_id": passage.file["file_id"],
        "filename": passage.file["filename"],
        "vector_store_id": passage.store_id,
        "score": passage.score,
        "attributes": passage.attributes(),
        "content": [{"type": "text", "text": chunk.text}],
        "location": {"start": chunk.start, "end": chunk.end, "page": chunk.page, "heading": chunk.heading},
    }
