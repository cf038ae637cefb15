"""OpenAPI building blocks shared by the hot paths, whose bodies FastAPI never parses."""

from typing import Any


def generate_openapi(required: list[str], properties: dict[str, Any], answer: str) -> dict[str, Any]:
    """The OpenAPI operation of a path that generates text. Unknown fields travel on, so `additionalProperties` is true."""
    schema = {
        "type": "object",
        "required": ["model", *required],
        "properties": properties,
        "additionalProperties": True,
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {
                "description": answer,
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            **{
                code: {"description": text, "content": {"application/json": {"schema": ERROR}}}
                for code, text in ERRORS.items()
            },
        },
    }


ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERRORS = {
    "400": "The request is malformed, not allowed, or held back by a guardrail (`content_filter`)",
    "401": "No valid key",
    "404": "No such model, or not this key's",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "A limit of the project is used up; see `retry-after`",
    "502": "The model server's answer could not be used",
    "503": "No replica could take the request",
    "504": "The model server was silent for too long",
}

COMMON: dict[str, Any] = {
    "model": {"type": "string"},
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
    "max_tokens": {"type": ["integer", "null"], "minimum": 1},
    "n": {"type": ["integer", "null"], "minimum": 1},
    "temperature": {"type": ["number", "null"]},
}
