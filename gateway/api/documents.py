"""`/v1/files` and `/v1/vector_stores`: answered by the knowledge service. What they say of themselves in OpenAPI.

Source: https://platform.openai.com/docs/api-reference/files and …/vector-stores.
"""

from typing import Any

from gateway.api.schemas import ERROR, error_responses, path_parameters

JSON = {"type": "object", "additionalProperties": True}
FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["assistants", "user_data"]},
    },
}


def openapi(path: str, *, takes: str | None = None, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """The OpenAPI operation of `path`; `takes` is the media type of its body, if it has one."""
    found: dict[str, Any] = {
        "parameters": path_parameters(path),
        "responses": {
            "200": {"description": "As in OpenAI's API", "content": {"application/json": {"schema": JSON}}},
            **error_responses(ERROR),
        },
    }
    if takes is not None:
        found["requestBody"] = {"required": True, "content": {takes: {"schema": schema or JSON}}}
    return found
