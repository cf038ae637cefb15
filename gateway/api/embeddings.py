"""`POST /v1/embeddings`. Source: https://platform.openai.com/docs/api-reference/embeddings/create."""

from gateway.api.schemas import openapi
from gateway.dialects.openai import Numbers
from gateway.exchange import Operation

OPERATION = Operation("embeddings", Numbers())
OPENAPI = openapi(
    ["input"],
    {
        "input": {"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1},
        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        "dimensions": {"type": ["integer", "null"], "minimum": 1},
    },
    "One vector per input",
)
