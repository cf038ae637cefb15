"""`POST /v1/chat/completions`. Source: https://platform.openai.com/docs/api-reference/chat/create."""

from gateway.api.schemas import STREAM, openapi
from gateway.dialects.openai import OpenAi
from gateway.exchange import Operation

OPERATION = Operation("chat", OpenAi(), generates=True)
OPENAPI = openapi(
    ["messages"],
    {
        **STREAM,
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "response_format": {"type": ["object", "null"]},
    },
    "A chat completion, or its chunks as server-sent events",
    streams=True,
)
