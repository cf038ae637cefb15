"""`POST /v1/embeddings`. Source: https://platform.openai.com/docs/api-reference/embeddings."""

import asyncio
import base64
from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from rag.api.parts import owner_of, parts_of, read_json
from rag.embedding import DIMENSIONS, MAX_TOKENS, MODEL, Priority
from tidegate.errors import InvalidRequest, NotFound

router = APIRouter()
_MOST_TEXTS = 2_048
_ITEMS_AT_ONCE = 16


class Embed(Struct):
    """The body; unknown fields are ignored, as everywhere in this API."""

    model: str
    input: Any
    encoding_format: str = "float"
    dimensions: int | None = None


@router.post("/v1/embeddings", response_model=None)
async def embeddings(request: Request) -> Response:
    """One unit vector per text. A text that the model cannot read whole is refused, never cut in silence."""
    body = await read_json(request, Embed)
    if body.model != MODEL:
        raise NotFound(f"This server embeds with {MODEL!r} only.", param="model", code="model_not_found")
    texts = _texts(body.input)
    if body.dimensions not in (None, DIMENSIONS):
        raise InvalidRequest(f"`dimensions` must be {DIMENSIONS} or left out.", param="dimensions")
    if body.encoding_format not in ("float", "base64"):
        raise InvalidRequest("`encoding_format` must be float or base64.", param="encoding_format")
    embedder = parts_of(request).embedder
    tokens = await asyncio.to_thread(embedder.count_tokens, texts)
    if max(tokens) > MAX_TOKENS:
        index = tokens.index(max(tokens))
        raise InvalidRequest(f"Input {index} has {tokens[index]} tokens; the model reads {MAX_TOKENS}.", param="input")
    vectors = await embedder.embed(texts, Priority.CALL, owner_of(request))
    items = []
    for index, row in enumerate(vectors):
        shown = base64.b64encode(row.tobytes()).decode() if body.encoding_format == "base64" else row.tolist()
        items.append(msgspec.json.encode({"object": "embedding", "index": index, "embedding": shown}))
        if index % _ITEMS_AT_ONCE == 0:
            await asyncio.sleep(0)  # 2,048 vectors take a tenth of a second
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    page = {"object": "list", "data": msgspec.Raw(b"[%s]" % b",".join(items)), "model": MODEL, "usage": usage}
    return Response(msgspec.json.encode(page), media_type="application/json")


def _texts(given: Any) -> list[str]:
    """The texts to embed.

    Raises:
        InvalidRequest: none, too many, empty ones, or token ids.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= _MOST_TEXTS:
        raise InvalidRequest(f"`input` must be a text or a list of 1 to {_MOST_TEXTS} texts.", param="input")
    if not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest(
            "Every input must be a text that is not empty; token ids are not read. "
            "(LangChain's OpenAIEmbeddings sends text with check_embedding_ctx_length=False.)",
            param="input",
        )
    return texts
