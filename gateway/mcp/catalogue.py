"""What tool servers have listed: no other name of a tool is written down or sent to a server."""

from typing import Any

from gateway.mcp.visit import TOOL_NAME
from gateway.snapshot import ToolServer
from tidegate.wire.openai import encode

UNKNOWN = "unknown"
"""Stands for a name that no tool server has listed, in usage rows, logs and traces."""
_MAX_NAMES = 10_000
_HEADER_MARK = b'"x-mcp-header"'
"""In the schema of a tool whose arguments travel in headers, too, which must agree with them."""


class Catalogue:
    """What each tool server has listed so far, to any caller: names, and the schemas that headers are checked with."""

    def __init__(self) -> None:
        self._tools: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

    def learn(self, server: ToolServer, tools: list[dict[str, Any]]) -> None:
        """Notes the names in a list that `server` has sent."""
        known = self._tools.setdefault((server.name, server.url), {})
        for tool in tools:
            name = tool.get("name")
            if isinstance(name, str) and TOOL_NAME.fullmatch(name) and len(known) < _MAX_NAMES:
                schema = tool.get("inputSchema")
                known[name] = schema if isinstance(schema, dict) and _HEADER_MARK in encode(schema) else {}

    def has(self, server: ToolServer, tool: str) -> bool:
        """Whether `server` has listed `tool`."""
        return self.schema(server, tool) is not None

    def schema(self, server: ToolServer, tool: str) -> dict[str, Any] | None:
        """What the arguments that travel in headers must be like; None for a tool that has not been listed."""
        return self._tools.get((server.name, server.url), {}).get(tool)
