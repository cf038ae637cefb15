"""The names that tool servers have listed: no other name of a tool is written down or sent to a server."""

from typing import Any

from gateway.mcp.visit import TOOL_NAME
from gateway.snapshot import ToolServer

UNKNOWN = "unknown"
"""Stands for a name that no tool server has listed, in usage rows, logs and traces."""
_MAX_NAMES = 10_000


class Catalogue:
    """What each tool server has listed so far, to any caller; names only."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], set[str]] = {}

    def learn(self, server: ToolServer, tools: list[dict[str, Any]]) -> None:
        """Notes the names in a list that `server` has sent."""
        known = self._names.setdefault((server.name, server.url), set())
        for tool in tools:
            name = tool.get("name")
            if isinstance(name, str) and TOOL_NAME.fullmatch(name) and len(known) < _MAX_NAMES:
                known.add(name)

    def has(self, server: ToolServer, tool: str) -> bool:
        """Whether `server` has listed `tool`."""
        return tool in self._names.get((server.name, server.url), ())
