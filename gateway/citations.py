"""How citations reach the caller: `citations` of each message, or one chunk without choices before a stream's end.

An extension of OpenAI's format, documented in docs/documents.md; a client that does not know it reads on undisturbed.
"""

from typing import Any

from tidegate.errors import UpstreamBroken
from tidegate.wire.openai import UNREADABLE, ChunkHead, decode_any, encode
from tidegate.wire.sse import encode_event

Citations = list[dict[str, Any]]


def cite_answer(body: bytes, citations: Citations) -> bytes:
    """A whole answer with the citations in every message.

    Raises:
        UpstreamBroken: the answer has another form.
    """
    try:
        answer = decode_any(body)
        return encode(_cited(answer, citations))
    except UNREADABLE as error:
        raise UpstreamBroken("the model server's answer is not JSON that can be read") from error


def _cited(answer: Any, citations: Citations) -> Any:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise UpstreamBroken("the model server's answer has a choice without a message")
        choice["message"]["citations"] = citations
    return answer


def cite_stream(head: ChunkHead, citations: Citations) -> bytes:
    """The chunk before `[DONE]`."""
    chunk = {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [],
        "citations": citations,
    }
    return encode_event(encode(chunk))
