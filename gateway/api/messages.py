"""`POST /v1/messages` and `/v1/messages/count_tokens`. Source: https://docs.anthropic.com/en/api/messages."""

from typing import Any

from gateway.api.schemas import error_responses, openapi
from gateway.dialects.anthropic import Anthropic
from gateway.exchange import Operation

_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
_MESSAGES = {"messages": {"type": "array", "minItems": 1, "items": {"type": "object"}}}


def _openapi(required: list[str], properties: dict[str, Any], answer: str, *, streams: bool) -> dict[str, Any]:
    made = openapi(required, properties, answer, streams=streams)
    made["responses"] |= error_responses(_ERROR)
    return made


OPERATION = Operation("chat", Anthropic(), generates=True)
OPENAPI = _openapi(
    ["messages", "max_tokens"],
    {**_MESSAGES, "max_tokens": {"type": "integer", "minimum": 1}, "stream": {"type": ["boolean", "null"]}},
    "A message, or its events as server-sent events",
    streams=True,
)
COUNT_TOKENS = Operation("count_tokens", Anthropic())
COUNT_TOKENS_OPENAPI = _openapi(["messages"], _MESSAGES, "How many tokens the input has", streams=False)
