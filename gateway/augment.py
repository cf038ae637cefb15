"""Presets: a model with a prompt and documents. What was found is put before the model as data, and cited to the caller.

The passages stand in the last user message, escaped, so that none of them can end its own markers; the rule about them stands
in the system message.
"""

from typing import Any

import msgspec

from gateway.backends.service import ServiceClient, ServiceRequest
from gateway.exchange import Exchange
from tidegate.config.resources import Preset
from tidegate.errors import ClientError, InvalidRequest, ServiceUnavailable
from tidegate.identity import Caller
from tidegate.wire.openai import decode_object, encode
from tidegate.wire.passages import RULE, Found, Passage, shown

_MOST_QUERY_CHARACTERS = 4_000


class ErrorBody(msgspec.Struct):
    """The knowledge service's refusal."""

    class Error(msgspec.Struct):
        """`error`."""

        message: str
        code: str | None = None

    error: Error


class Augmenter:
    """Asks the knowledge service and writes what it found into the request."""

    def __init__(self, knowledge: ServiceClient, timeout_s: float) -> None:
        self._knowledge = knowledge
        self._timeout_s = timeout_s

    async def augment(self, exchange: Exchange, preset: Preset, caller: Caller, trace: bytes) -> None:
        """Changes `exchange.body` and sets `exchange.citations`.

        Raises:
            InvalidRequest: the request cannot be answered by a preset.
            ServiceUnavailable: the documents cannot be searched; the model is not asked without them.
        """
        if exchange.path != "/v1/chat/completions":
            raise InvalidRequest(f"{preset.name!r} is a preset: use it with chat completions.", param="model")
        body = decode_object(exchange.body)
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise InvalidRequest("`messages` must be a list of messages.", param="messages")
        prompt = preset.system_prompt
        if preset.vector_stores:
            passages = await self._search(preset, question_of(messages), caller, trace)
            exchange.citations = [citation(index, passage) for index, passage in enumerate(passages, 1)]
            put_before(messages, shown(passages))
            prompt = f"{prompt}\n\n{RULE}".strip()
        if prompt:
            instruct(messages, prompt)
        exchange.body = encode(body)

    async def _search(self, preset: Preset, query: str, caller: Caller, trace: bytes) -> list[Passage]:
        """With the caller's own rights: the token names his project."""
        asked = {"vector_stores": preset.vector_stores, "query": query, "max_results": preset.max_passages}
        request = ServiceRequest("POST", "/internal/search", encode(asked), replay=True)
        answer = await self._knowledge.call(request, caller, trace=trace, timeout_s=self._timeout_s)
        if answer.status != 200:
            raise _refusal(answer.status, answer.body, preset.name)
        try:
            passages = msgspec.json.decode(answer.body, type=Found).data
        except msgspec.DecodeError as error:
            raise ServiceUnavailable("The knowledge service's answer cannot be used.") from error
        return within(passages, preset.max_passage_characters)


def question_of(messages: list[dict[str, Any]]) -> str:
    """What is searched for: the text of the last user message, its end if it is long.

    Raises:
        InvalidRequest: there is none.
    """
    content = _last_user(messages).get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    question = "\n".join(text for text in texts if isinstance(text, str)).strip()
    if not question:
        raise InvalidRequest("A preset with documents needs a user message with text.", param="messages")
    return question[-_MOST_QUERY_CHARACTERS:].strip()


def within(passages: list[Passage], most_characters: int) -> list[Passage]:
    """The best passages that fit."""
    kept, left = [], most_characters
    for passage in passages:
        size = len(passage.text)
        if size <= left:
            kept.append(passage)
            left -= size
    return kept


def put_before(messages: list[dict[str, Any]], block: str) -> None:
    """Puts `block` before the text of the last user message."""
    message = _last_user(messages)
    content = message["content"]
    message["content"] = (
        [{"type": "text", "text": block}, *content] if isinstance(content, list) else f"{block}\n\n{content}"
    )


def instruct(messages: list[dict[str, Any]], prompt: str) -> None:
    """Puts `prompt` first, before a system message of the caller's own, if there is one."""
    first = messages[0] if messages else {}
    if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        first["content"] = f"{prompt}\n\n{first['content']}"
    else:
        messages.insert(0, {"role": "system", "content": prompt})


def citation(index: int, passage: Passage) -> dict[str, Any]:
    """What the caller gets; `index` is the number that the model sees."""
    place = passage.location
    return {
        "index": index,
        "file_id": passage.file_id,
        "filename": passage.filename,
        "vector_store_id": passage.vector_store_id,
        "page": place.page,
        "heading": place.heading,
        "start": place.start,
        "end": place.end,
        "score": passage.score,
    }


def _last_user(messages: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any]
    for message in reversed(messages):
        if message.get("role") == "user":
            return message
    raise InvalidRequest("A preset with documents needs a user message with text.", param="messages")


def _refusal(status: int, body: bytes, preset: str) -> ClientError | ServiceUnavailable:
    """The knowledge service's own words where the caller can act on them."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except msgspec.DecodeError:
        error = ErrorBody.Error("no reason given")
    if status < 500:
        return InvalidRequest(f"The documents of {preset!r} cannot be searched: {error.message}", code=error.code)
    return ServiceUnavailable(f"The documents of {preset!r} cannot be searched now: {error.message}")
