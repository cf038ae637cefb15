"""What is asked of a hosted tool server: MCP 2026-07-28 over the gateway's own connections. Stateless: a call is one POST.

Source: https://modelcontextprotocol.io/specification (streamable HTTP; `_meta` of every request, `Mcp-Method`, `Mcp-Name`).
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.backends.service import ServiceAnswer, ServiceRequest
from gateway.snapshot import ToolServer
from tidegate import __version__
from tidegate.errors import ServiceUnavailable
from tidegate.identity import Caller
from tidegate.wire.openai import encode
from tidegate.wire.sse import Splitter, data_of

PROTOCOL = "2026-07-28"
_META = "io.modelcontextprotocol/"
_MOST_PAGES = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Patience and room for one request."""

    timeout_s: float
    most_bytes: int


class RpcError(msgspec.Struct):
    """`error` of an answer."""

    code: int
    message: str
    data: Any = None


class RpcAnswer(msgspec.Struct):
    """An answer, among other messages."""

    id: Any = None
    result: dict[str, Any] | None = None
    error: RpcError | None = None


class Refused(Exception):
    """The tool server answered with an error of the protocol."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(error.message)
        self.error = error


async def list_tools(server: ToolServer, caller: Caller, trace: bytes, limits: Limits) -> list[dict[str, Any]]:
    """Every tool of `server`, as it describes them.

    Raises:
        ServiceUnavailable: it does not answer, or not with a list.
    """
    tools: list[dict[str, Any]] = []
    params: dict[str, Any] = {}
    for _ in range(_MOST_PAGES):
        try:
            result = await _ask(server, "tools/list", params, caller, trace, limits)
        except Refused as error:
            raise ServiceUnavailable(f"The tool server {server.name!r} does not say what it has: {error}") from error
        found = result.get("tools")
        tools += [tool for tool in found if isinstance(tool, dict)] if isinstance(found, list) else []
        if not result.get("nextCursor"):
            return tools
        params = {"cursor": result["nextCursor"]}
    raise ServiceUnavailable(f"The tool server {server.name!r} does not come to an end with its list.")


async def call_tool(
    server: ToolServer, tool: str, arguments: dict[str, Any], caller: Caller, trace: bytes, limits: Limits
) -> dict[str, Any]:
    """The result of a tool call, errors of the tool included (`isError`).

    Raises:
        ServiceUnavailable: the server does not answer, too late or with too much.
        Refused: an error of the protocol.
    """
    return await _ask(server, "tools/call", {"name": tool, "arguments": arguments}, caller, trace, limits)


async def _ask(
    server: ToolServer, method: str, params: dict[str, Any], caller: Caller, trace: bytes, limits: Limits
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        f"{_META}protocolVersion": PROTOCOL,
        f"{_META}clientInfo": {"name": "tidegate", "version": __version__},
        f"{_META}clientCapabilities": {},
        "traceparent": trace.removeprefix(b"traceparent: ").strip().decode(),
    }
    lines = b"accept: application/json, text/event-stream\r\nmcp-protocol-version: %s\r\nmcp-method: %s\r\n" % (
        PROTOCOL.encode(),
        method.encode(),
    )
    if "name" in params:
        lines += b"mcp-name: %s\r\n" % str(params["name"]).encode()
    if server.acts_for_caller:
        lines += b"x-tidegate-delegation: %s\r\n" % server.client.delegate(caller).encode()
    body = encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}})
    request = ServiceRequest("POST", "/mcp", body, lines=lines, replay=method == "tools/list")
    answer = await server.client.call(
        request, caller, trace=trace, timeout_s=limits.timeout_s, most_bytes=limits.most_bytes
    )
    found = _answer_in(answer, limits.most_bytes)
    if found is None:
        raise ServiceUnavailable(f"The tool server {server.name!r} answered {answer.status}, not as MCP asks.")
    if found.error is not None:
        raise Refused(found.error)
    return found.result or {}


def _answer_in(answer: ServiceAnswer, most_bytes: int) -> RpcAnswer | None:
    """The answer to our request, alone or among the events of a stream."""
    bodies = [answer.body]
    if answer.content_type.startswith("text/event-stream"):
        bodies = [data_of(event) for event in Splitter(most_bytes).feed([answer.body, b"\n\n"])]
    for body in bodies:
        try:
            found = msgspec.json.decode(body, type=RpcAnswer)
        except (msgspec.DecodeError, RecursionError):
            continue
        if found.id == 1 and (found.result is not None or found.error is not None):
            return found
    return None
