"""OpenAPI building blocks shared by the hot paths, whose bodies FastAPI never parses."""

import re
from typing import Any


def openapi(required: list[str], properties: dict[str, Any], answer: str, *, streams: bool = False) -> dict[str, Any]:
    """The OpenAPI operation of a path that a model server answers; unknown fields travel on."""
    schema = {
        "type": "object",
        "required": ["model", *required],
        "properties": {"model": {"type": "string"}, **properties},
        "additionalProperties": True,
    }
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": answer, "content": content}, **error_responses(ERROR)},
    }


def path_parameters(path: str) -> list[dict[str, Any]]:
    """The OpenAPI parameters of a path's template."""
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)(?::\w+)?\}", path)
    ]


def error_responses(schema: dict[str, Any]) -> dict[str, Any]:
    """The answers that are errors, in the form `schema`."""
    return {
        code: {"description": text, "content": {"application/json": {"schema": schema}}}
        for code, text in ERRORS.items()
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
TEXTS: dict[str, Any] = {"type": ["string", "array"], "minItems": 1}
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

STREAM: dict[str, Any] = {
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
    "max_tokens": {"type": ["integer", "null"], "minimum": 1},
    "n": {"type": ["integer", "null"], "minimum": 1},
    "temperature": {"type": ["number", "null"]},
}
