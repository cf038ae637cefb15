"""`POST /v1/chat/completions`. Source: https://platform.openai.com/docs/api-reference/chat/create."""

from gateway.api.schemas import COMMON, generate_openapi

OPERATION = "chat"
OPENAPI = generate_openapi(
    ["messages"],
    {
        **COMMON,
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "response_format": {"type": ["object", "null"]},
    },
    "A chat completion, or its chunks as server-sent events",
)
