"""`POST /internal/search`: what the gateway asks for presets, over several stores at once, by id or by name."""

from typing import Any

from fastapi import APIRouter
from msgspec import Struct
from starlette.requests import Request

from rag.api.parts import owner_of, parts_of, read_json
from rag.retrieve import Passage, Question
from tidegate.errors import InvalidRequest
from tidegate.serving.door import caller_of, span_of

router = APIRouter()


class SearchStores(Struct):
    """The body."""

    vector_stores: list[str]
    query: str
    max_results: int


@router.post("/internal/search", response_model=None)
async def search(request: Request) -> dict[str, Any]:
    """The best passages for a question, with everything that a citation needs."""
    body = await read_json(request, SearchStores)
    if not 1 <= body.max_results <= 50 or not 1 <= len(body.vector_stores) <= 64:
        raise InvalidRequest("`max_results` must be 1 to 50, `vector_stores` 1 to 64 names.")
    parts = parts_of(request)
    policy = await parts.policies.named(caller_of(request).policy)
    question = Question(body.vector_stores, body.query, body.max_results)
    found = await parts.retriever.search(owner_of(request), policy, question, span_of(request))
    return {"data": [show_passage(passage) for passage in found]}


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
