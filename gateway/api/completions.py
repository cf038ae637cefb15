"""`POST /v1/completions`. Source: https://platform.openai.com/docs/api-reference/completions/create."""

from gateway.api.schemas import STREAM, openapi
from gateway.dialects.openai import OpenAi
from gateway.exchange import Operation

OPERATION = Operation("text_completion", OpenAi(), generates=True)
OPENAPI = openapi(
    ["prompt"],
    {**STREAM, "prompt": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}},
    "A completion, or its chunks as server-sent events",
    streams=True,
)
