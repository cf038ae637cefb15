"""`/mcp`: what the door for tools says of itself in OpenAPI, and its metadata document."""

from typing import Any

from starlette.requests import Request

from gateway.api.schemas import path_parameters

_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
    "responses": {
        "200": {
            "description": "A JSON-RPC answer, alone or as server-sent events",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        "401": {"description": "No valid key; `www-authenticate` names the metadata document"},
        "403": {"description": "A web page of this Origin may not call"},
        "404": {"description": "No such tool server, or not this key's"},
    },
}


def openapi(path: str) -> dict[str, Any]:
    """The OpenAPI operation of a path of the door for tools."""
    return {"parameters": path_parameters(path), **_OPENAPI}


async def metadata(request: Request) -> dict[str, Any]:
    """`/.well-known/oauth-protected-resource` (RFC 9728)."""
    found: dict[str, Any] = request.app.state.tool_metadata(request)
    return found
