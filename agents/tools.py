"""The tools of a run: `function` (the client's own), `file_search`, and `mcp` (hosted servers), as the model sees them.

Source: https://platform.openai.com/docs/guides/tools. Every call goes through the gateway's public door.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import msgspec
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tidegate.errors import InvalidRequest, UpstreamError
from tidegate.wire.passages import Found, Passage, shown

Kind = Literal["function", "mcp", "file_search"]
FILE_SEARCH = "file_search"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEARCH_SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1, "maxLength": 200, "description": "A short question, or key words"}
    },
    "required": ["query"],
    "additionalProperties": False,
}


class ToolListFailed(UpstreamError):
    """A hosted tool server did not say what it has."""

    code = "tool_server_unavailable"


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool."""

    name: str
    """As the model sees it."""
    kind: Kind
    own_name: str
    chat_tool: dict[str, Any]
    """As chat completions take it."""
    server: str = ""


@dataclass(slots=True)
class Outcome:
    """What a call gave."""

    output: str
    """For the model."""
    error: dict[str, Any] | None = None
    """What went wrong, as the Responses API has it (`McpToolCallError`)."""
    passages: list[Passage] = field(default_factory=list)


@dataclass(slots=True)
class Server:
    """A hosted tool server that the run uses."""

    label: str
    client: Client
    listed: list[dict[str, Any]]
    """Its tools as the Responses API shows them."""


class Toolbox:
    """Opens what the request names; leave it in the task that entered it."""

    def __init__(
        self, given: Sequence[dict[str, Any]], http: httpx2.AsyncClient, gateway_url: str, timeout_s: float
    ) -> None:
        self._given = given
        self._http = http
        self._gateway_url = gateway_url
        self._timeout_s = timeout_s
        self._stack = AsyncExitStack()
        self._stores: list[str] = []
        self._results = 10
        self.tools: dict[str, Tool] = {}
        self.servers: dict[str, Server] = {}

    async def __aenter__(self) -> "Toolbox":
        """Reads the tools of every server.

        Raises:
            InvalidRequest: a tool that is not offered.
            ToolListFailed: a server does not answer.
        """
        try:
            for tool in self._given:
                match tool.get("type"):
                    case "function":
                        self._add(_function(tool))
                    case "file_search":
                        self._add_search(tool)
                    case "mcp":
                        await self._add_server(tool)
                    case other:
                        raise InvalidRequest(f"Tools of type {str(other)[:64]!r} are not offered.", param="tools")
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Closes every connection."""
        await self._stack.aclose()

    async def call(self, tool: Tool, arguments: dict[str, Any]) -> Outcome:
        """Calls a tool of ours; whatever goes wrong is told to the model. Only a cancellation comes out."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if tool.kind == "file_search":
                    return await self._search(str(arguments.get("query", "")))
                result = await self.servers[tool.server].client.call_tool(tool.own_name, arguments)
        except TimeoutError:
            return failed(f"The tool did not answer within {self._timeout_s:.0f} s.")
        except MCPError as error:
            told = {"type": "mcp_protocol_error", "code": error.error.code, "message": error.error.message}
            return Outcome(error.error.message, told)
        except (httpx2.HTTPError, OSError, RuntimeError) as error:
            message = f"The tool cannot be reached ({type(error).__name__})."
            return Outcome(message, {"type": "http_error", "code": 503, "message": message})
        text = "\n".join(_text_of(part) for part in result.content)
        return failed(text) if result.is_error else Outcome(text)

    def _add(self, tool: Tool) -> None:
        if tool.name in self.tools:
            raise InvalidRequest(f"Two tools are named {tool.name!r}.", param="tools")
        self.tools[tool.name] = tool

    def _add_search(self, tool: dict[str, Any]) -> None:
        stores, most = tool.get("vector_store_ids"), tool.get("max_num_results", 5)
        if not isinstance(stores, list) or not stores or not all(isinstance(store, str) for store in stores):
            raise InvalidRequest("`file_search` needs `vector_store_ids`.", param="tools")
        if not isinstance(most, int) or not 1 <= most <= 50 or not all(_NAME.fullmatch(store) for store in stores):
            raise InvalidRequest(
                "`file_search`: `max_num_results` must be 1 to 50, store ids like vs_….", param="tools"
            )
        if tool.get("filters") or tool.get("ranking_options"):
            raise InvalidRequest("`file_search`: `filters` and `ranking_options` are not offered yet.", param="tools")
        self._stores, self._results = stores, most
        described = "Searches the documents for passages that answer a question."
        self._add(Tool(FILE_SEARCH, "file_search", FILE_SEARCH, _chat_tool(FILE_SEARCH, described, _SEARCH_SCHEMA)))

    async def _add_server(self, tool: dict[str, Any]) -> None:
        label = _label(tool, self._gateway_url)
        if label in self.servers:
            raise InvalidRequest(f"Two tools have the server_label {label!r}.", param="tools")
        allowed = _allowed(tool.get("allowed_tools"))
        transport = streamable_http_client(f"{self._gateway_url}/mcp/{label}", http_client=self._http)
        try:
            client = await self._stack.enter_async_context(Client(transport))
            found = (await client.list_tools()).tools
        except BaseExceptionGroup as error:
            raise ToolListFailed(f"The tool server {label!r} does not answer.") from error
        except (MCPError, httpx2.HTTPError, OSError) as error:
            raise ToolListFailed(f"The tool server {label!r} does not say what it has: {error}") from error
        listed = []
        for item in found:
            if allowed is not None and item.name not in allowed:
                continue
            schema = dict(item.input_schema)
            self._add(_hosted(label, item.name, item.description or "", schema))
            listed.append(
                {"name": item.name, "description": item.description, "input_schema": schema, "annotations": None}
            )
        self.servers[label] = Server(label, client, listed)

    async def _search(self, query: str) -> Outcome:
        asked = {"vector_store_ids": self._stores, "query": query, "max_num_results": self._results}
        answer = await self._http.post(f"{self._gateway_url}/v1/vector_stores/search", json=asked)
        if answer.status_code != 200:
            return failed(_reason(answer))
        best = msgspec.json.decode(answer.content, type=Found).data
        return Outcome(shown(best), passages=best)


def _function(tool: dict[str, Any]) -> Tool:
    name, parameters = tool.get("name"), tool.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(parameters, dict):
        raise InvalidRequest("A function needs a name (letters, digits, _ and -) and parameters.", param="tools")
    described = _chat_tool(name, str(tool.get("description") or ""), parameters)
    described["function"]["strict"] = bool(tool.get("strict", True))
    return Tool(name, "function", name, described)


def _hosted(label: str, name: str, description: str, schema: dict[str, Any]) -> Tool:
    shown_name = f"{label}__{name}"
    if not _NAME.fullmatch(shown_name):
        raise InvalidRequest(
            f"The tool {shown_name[:128]!r} cannot be offered to a model under this name.", param="tools"
        )
    return Tool(shown_name, "mcp", name, _chat_tool(shown_name, description, schema), label)


def _chat_tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


def _label(tool: dict[str, Any], gateway_url: str) -> str:
    """Which hosted server is meant.

    Raises:
        InvalidRequest: another server, or approvals, which are not offered.
    """
    label, url = tool.get("server_label"), tool.get("server_url")
    if not isinstance(label, str) or not _NAME.fullmatch(label):
        raise InvalidRequest("An `mcp` tool needs the `server_label` of a hosted server.", param="tools")
    if url is not None and not str(url).rstrip("/").endswith(f"/mcp/{label}"):
        raise InvalidRequest(
            "Only hosted servers are offered: leave `server_url` out, or end it in /mcp/<label>.", param="tools"
        )
    if tool.get("require_approval", "never") != "never":
        raise InvalidRequest("`require_approval` must be never: approvals are not offered yet.", param="tools")
    if tool.get("authorization") or tool.get("headers") or tool.get("connector_id"):
        raise InvalidRequest(
            "`authorization`, `headers` and `connector_id` are not offered for hosted servers.", param="tools"
        )
    return label


def _allowed(given: Any) -> set[str] | None:
    names = given.get("tool_names") if isinstance(given, dict) else given
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest("`allowed_tools` must be a list of names.", param="tools")
    return set(names)


def failed(reason: str) -> Outcome:
    """A call that gave nothing but `reason`."""
    content = [{"type": "text", "text": reason}]
    return Outcome(reason, {"type": "mcp_tool_execution_error", "content": content})


def _text_of(part: Any) -> str:
    return str(part.text) if part.type == "text" else str(part.model_dump_json())


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The gateway answered {answer.status_code}."
