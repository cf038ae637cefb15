"""`POST /v1/rerank`, also `/rerank` and `/v2/rerank`, as clients of Jina and Cohere call it.

Source: https://docs.vllm.ai/en/latest/models/pooling_models (rerank).
"""

from gateway.api.schemas import TEXTS, openapi
from gateway.dialects.openai import Numbers
from gateway.exchange import Operation

OPERATION = Operation("rerank", Numbers())
OPENAPI = openapi(
    ["query", "documents"],
    {
        "query": {"type": ["string", "object"]},
        "documents": {"type": ["array", "object"]},
        "top_n": {"type": ["integer", "null"], "minimum": 0},
    },
    "The documents by relevance",
)
SCORE = Operation("score", Numbers())
SCORE_OPENAPI = openapi([], {"text_1": TEXTS, "text_2": TEXTS}, "One score per pair of texts")
