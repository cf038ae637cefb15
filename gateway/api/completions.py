"""`POST /v1/completions`. Source: https://platform.openai.com/docs/api-reference/completions/create."""

from gateway.api.schemas import COMMON, generate_openapi

OPERATION = "text_completion"
OPENAPI = generate_openapi(
    ["prompt"],
    {**COMMON, "prompt": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}},
    "A completion, or its chunks as server-sent events",
)
