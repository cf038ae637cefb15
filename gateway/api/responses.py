"""`POST /v1/responses`: answered by the agents service. Source: https://platform.openai.com/docs/api-reference/responses."""

from gateway.api.schemas import openapi

OPENAPI = openapi(
    ["input"],
    {
        "input": {"type": ["string", "array"]},
        "instructions": {"type": ["string", "null"]},
        "stream": {"type": ["boolean", "null"]},
        "store": {"type": ["boolean", "null"]},
        "previous_response_id": {"type": ["string", "null"]},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "max_tool_calls": {"type": ["integer", "null"], "minimum": 0},
    },
    "A response, or its events as server-sent events",
    streams=True,
)
