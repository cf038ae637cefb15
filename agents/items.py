"""Output items and the events that tell of them, numbered and in the order in which the official client expects them.

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

import secrets
from typing import Any

from agents.tools import Outcome, Server, Tool

Event = dict[str, Any]
Item = dict[str, Any]


class Output:
    """The output of a response as it grows; every change gives the events that tell of it."""

    def __init__(self, *, show_results: bool) -> None:
        self.items: list[Item] = []
        self._show_results = show_results
        self._message: Item | None = None
        self._calls: dict[str, Item] = {}
        """Open calls by the model's id."""

    # -- text -----------------------------------------------------------------------------------------------------

    def text(self, delta: str) -> list[Event]:
        """The model has said more."""
        events: list[Event] = []
        if self._message is None:
            self._message = {
                "id": new_id("msg"),
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            events = self._added(self._message)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._message["content"].append(part)
            events.append(
                {
                    "type": "response.content_part.added",
                    **self._at(self._message),
                    "content_index": 0,
                    "part": dict(part),
                }
            )
        self._message["content"][0]["text"] += delta
        place = {**self._at(self._message), "content_index": 0}
        return [*events, {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}]

    def end_text(self, status: str = "completed") -> list[Event]:
        """The model has said all it had to say for now."""
        message, self._message = self._message, None
        if message is None:
            return []
        part, place = message["content"][0], {**self._at(message), "content_index": 0}
        return [
            {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
            {"type": "response.content_part.done", **place, "part": dict(part)},
            *self._done(message, status),
        ]

    # -- calls ----------------------------------------------------------------------------------------------------

    def call_began(self, call_id: str, tool: Tool | None, name: str) -> list[Event]:
        """The model has begun to call a tool; one that does not exist is shown as a function of the client's."""
        kind = tool.kind if tool is not None else "function"
        item: Item = {"id": "", "type": "", "status": "in_progress"}
        if kind == "mcp":
            assert tool is not None  # noqa: S101
            own = {"server_label": tool.server, "name": tool.own_name, "arguments": "", "output": None, "error": None}
            item |= {"id": new_id("mcp"), "type": "mcp_call", "approval_request_id": None, **own}
        elif kind == "file_search":
            item |= {"id": new_id("fs"), "type": "file_search_call", "queries": [], "results": None}
        else:
            item |= {"id": new_id("fc"), "type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        self._calls[call_id] = item
        return [*self.end_text(), *self._added(item), *self._told(item, "in_progress")]

    def call_arguments(self, call_id: str, delta: str) -> list[Event]:
        """More of the arguments; a search shows its query once it is complete."""
        item = self._calls[call_id]
        if not delta or item["type"] == "file_search_call":
            return []
        item["arguments"] += delta
        return [{"type": f"response.{item['type']}_arguments.delta", **self._at(item), "delta": delta}]

    def call_complete(self, call_id: str, arguments: dict[str, Any], raw: str) -> list[Event]:
        """The arguments are there: the client's function is his to run, the others are run now."""
        item = self._calls[call_id]
        if item["type"] == "file_search_call":
            item["queries"] = [str(arguments.get("query", ""))]
            return self._told(item, "searching")
        item["arguments"] = item["arguments"] or raw
        place = {**self._at(item), "arguments": item["arguments"]}
        if item["type"] == "mcp_call":
            return [{"type": "response.mcp_call_arguments.done", **place}]
        del self._calls[call_id]
        done = {"type": "response.function_call_arguments.done", **place, "name": item["name"]}
        return [done, *self._done(item, "completed")]

    def call_ended(self, call_id: str, outcome: Outcome) -> list[Event]:
        """A tool of ours has answered."""
        item = self._calls.pop(call_id)
        if item["type"] == "file_search_call":
            if self._show_results:
                item["results"] = [
                    {
                        "file_id": p.file_id,
                        "filename": p.filename,
                        "score": p.score,
                        "text": p.text,
                        "attributes": p.attributes,
                    }
                    for p in outcome.passages
                ]
            status = "completed" if outcome.error is None else "failed"
            return [*(self._told(item, "completed") if outcome.error is None else []), *self._done(item, status)]
        if outcome.error is None:
            item["output"] = outcome.output
            return [*self._told(item, "completed"), *self._done(item, "completed")]
        item["error"] = outcome.error
        return [*self._told(item, "failed"), *self._done(item, "failed")]

    def is_open(self, call_id: str) -> bool:
        """Whether a call has begun and not ended."""
        return call_id in self._calls

    def give_up(self) -> list[Event]:
        """Nothing more comes: what is open stays incomplete."""
        events = self.end_text("incomplete")
        for item in self._calls.values():
            events += self._done(item, "failed" if item["type"] == "mcp_call" else "incomplete")
        self._calls.clear()
        return events

    def tools_listed(self, server: Server) -> list[Event]:
        """What a hosted server has."""
        item = {
            "id": new_id("mcpl"),
            "type": "mcp_list_tools",
            "server_label": server.label,
            "tools": server.listed,
            "error": None,
        }
        events = self._added({**item, "tools": []})
        self.items[-1] = item
        events += [
            {"type": f"response.mcp_list_tools.{state}", **self._at(item)} for state in ("in_progress", "completed")
        ]
        return [
            *events,
            {"type": "response.output_item.done", "output_index": self.items.index(item), "item": dict(item)},
        ]

    # -- inside ---------------------------------------------------------------------------------------------------

    def _added(self, item: Item) -> list[Event]:
        self.items.append(item)
        return [{"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": _copy(item)}]

    def _done(self, item: Item, status: str) -> list[Event]:
        item["status"] = status
        return [{"type": "response.output_item.done", "output_index": self._index(item), "item": _copy(item)}]

    def _told(self, item: Item, state: str) -> list[Event]:
        if item["type"] == "function_call":
            return []
        return [{"type": f"response.{item['type']}.{state}", **self._at(item)}]

    def _at(self, item: Item) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self._index(item)}

    def _index(self, item: Item) -> int:
        return next(index for index, other in enumerate(self.items) if other["id"] == item["id"])


def new_id(prefix: str) -> str:
    """An id nobody can guess."""
    return f"{prefix}_{secrets.token_hex(16)}"


def _copy(item: Item) -> Item:
    return {**item, "content": [dict(part) for part in item["content"]]} if "content" in item else dict(item)
