"""`POST /tokenize` and `/detokenize`: the model's own tokenizer. Source: https://docs.vllm.ai (online serving)."""

from gateway.api.schemas import openapi
from gateway.dialects.openai import Plain
from gateway.exchange import Operation

OPERATION = Operation("tokenize", Plain())
OPENAPI = openapi(
    [],
    {"prompt": {"type": "string"}, "messages": {"type": "array", "items": {"type": "object"}}},
    "Token ids and how many there are",
)
DETOKENIZE = Operation("detokenize", Plain())
DETOKENIZE_OPENAPI = openapi(
    ["tokens"], {"tokens": {"type": "array", "items": {"type": "integer"}}}, "The text of the tokens"
)
