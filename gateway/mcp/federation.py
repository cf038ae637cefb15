"""The tools of several servers as those of one: listed together, called one by one, screened, metered, traced."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)
from opentelemetry.trace import Span, SpanKind

from gateway.exchange import new_request_id
from gateway.limits.interface import SERVICES, ProjectLimits
from gateway.mcp.catalogue import UNKNOWN, Catalogue
from gateway.mcp.meter import Call, ToolMeter
from gateway.mcp.shares import Shares
from gateway.mcp.upstream import Limits, Refused, call_tool, list_tools
from gateway.mcp.visit import JOINT, VISIT, Visit, no_tool
from gateway.snapshot import ToolServer
from guardrails.engine.requests import Refused as Screened
from guardrails.offload.screener import Screener
from tidegate import __version__
from tidegate.config.settings import McpSettings
from tidegate.errors import (
    ClientError,
    NotFound,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    TidegateError,
    UpstreamTimeout,
)
from tidegate.telemetry import names
from tidegate.telemetry.tracing import Tracing, fail, parse_traceparent, traceparent, unsampled_traceparent
from tidegate.types import Outcome, Verdict
from tidegate.wire.openai import decode_object, encode

RATE_LIMITED = -32_000
"""Of the range that JSON-RPC leaves to servers."""
Context = ServerRequestContext[Any]


class Federation:
    """Answers `tools/list` and `tools/call` for whoever visits."""

    def __init__(
        self, settings: McpSettings, limits: ProjectLimits, screener: Screener, tracing: Tracing, meter: ToolMeter
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._screener = screener
        self._tracing = tracing
        self._meter = meter
        self._calls = Shares(settings.max_calls, "tool calls at the same time")
        self._catalogue = Catalogue()
        self.server = Server(
            "tidegate",
            version=__version__,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            get_tool_input_schema=self._input_schema,
        )

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        """For the SDK, which would list the tools of every server before each call in order to know it."""
        try:
            server, tool = VISIT.get().resolve(name)
        except TidegateError:
            return None
        return self._catalogue.schema(server, tool)

    async def _list_tools(self, context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """Every tool the key may use, in order of name. A server that is away is an error, never a shorter list."""
        visit = VISIT.get()
        try:
            await self._admit(visit)
            servers = visit.servers()
            async with self._slot(visit):
                found = await _all(self._listed(visit, server) for server in servers)
        except TidegateError as error:
            raise as_rpc(error) from error
        offered = [
            _renamed(visit, server, tool) for server, tools in zip(servers, found, strict=True) for tool in tools
        ]
        return ListToolsResult(tools=sorted(offered, key=lambda tool: tool.name))

    async def _call_tool(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        """One call: limits, guardrails on the arguments, the server, guardrails on the result. Always settled."""
        visit, call = VISIT.get(), Call(time.time(), time.perf_counter())
        span = self._span(visit, params)
        try:
            result = await self._called(visit, params, call, span)
            call.outcome = Outcome.OK
            return result
        except TidegateError as error:
            call.outcome, call.code = _outcome_of(error), error.error_code
            raise as_rpc(error) from error
        except Refused as error:
            call.outcome, call.code = Outcome.UPSTREAM_REFUSED, str(error.error.code)
            raise MCPError(error.error.code, error.error.message) from error
        except asyncio.CancelledError:
            call.outcome, call.code = Outcome.CANCELLED, "client_gone"
            raise
        finally:
            if span is not None:
                span.set_attribute(names.OUTCOME, call.outcome)
                if call.code is not None:
                    fail(span, call.code)
                span.end()
            self._meter.settle(call)

    async def _called(
        self, visit: Visit, params: CallToolRequestParams, call: Call, span: Span | None
    ) -> CallToolResult:
        server, tool = visit.resolve(params.name)
        await self._admit(visit)
        async with AsyncExitStack() as slot:
            failure = await self._why_not(slot, visit, server, tool)
            name = f"{server.name}{JOINT}{tool if self._catalogue.has(server, tool) else UNKNOWN}"
            trace_id = ""
            if span is not None:
                trace_id = f"{span.get_span_context().trace_id:032x}"
                span.update_name(f"tools/call {name}")
                span.set_attribute(names.TOOL_NAME, name)
            self._meter.begin(call, visit, server, name, trace_id)
            if failure is not None:
                raise failure
            arguments = await self._screened_arguments(visit, params.arguments or {}, call)
            raw = await self._asked(server, tool, arguments, visit, call, span)
        return await self._screened_result(visit, raw, call)

    async def _listed(self, visit: Visit, server: ToolServer) -> list[dict[str, Any]]:
        limits = Limits(self._settings.list_timeout_s, self._settings.max_result_bytes)
        tools = await list_tools(server, visit.caller(new_request_id(time.time())), _unsampled(), limits)
        self._catalogue.learn(server, tools)
        return tools

    async def _why_not(self, slot: AsyncExitStack, visit: Visit, server: ToolServer, tool: str) -> TidegateError | None:
        """Takes a slot, and looks whether `server` lists `tool`; why it must not be called, if so."""
        try:
            await slot.enter_async_context(self._slot(visit))
            if not self._catalogue.has(server, tool):
                await self._listed(visit, server)
        except TidegateError as error:
            return error
        return None if self._catalogue.has(server, tool) else no_tool()

    @asynccontextmanager
    async def _slot(self, visit: Visit) -> AsyncIterator[None]:
        """The project's share of calls, and one of its concurrent requests.

        What is done in the course of another request takes none of those: the other one may have the last.
        """
        with self._calls.taken(visit.principal):
            if visit.delegated is not None:
                yield
                return
            asked = self._limits.reserve(visit.principal, SERVICES)  # the tool may call models itself
            if asked is not None:
                await asked
            try:
                yield
            finally:
                self._limits.release(visit.principal, SERVICES)

    async def _admit(self, visit: Visit) -> None:
        asked = self._limits.admit(visit.principal)
        if asked is not None:
            await asked

    async def _asked(
        self, server: ToolServer, tool: str, arguments: dict[str, Any], visit: Visit, call: Call, span: Span | None
    ) -> dict[str, Any]:
        caller = visit.caller(call.request_id)
        limits = Limits(self._settings.call_timeout_s, self._settings.max_result_bytes)
        with self._tracing.child(names.SPAN_CALL, span, SpanKind.CLIENT) as child:
            trace = _unsampled() if child is None else b"traceparent: %s\r\n" % traceparent(child)
            if child is not None:
                child.set_attribute(names.SERVER_ADDRESS, server.url)
            try:
                async with asyncio.timeout(self._settings.call_timeout_s + 1):
                    return await call_tool(server, tool, arguments, caller, trace, limits)
            except TimeoutError as error:
                message = f"The mcp:{server.name} service did not answer in time."
                raise ServiceUnavailable(message, code=UpstreamTimeout.code) from error

    async def _screened(self, visit: Visit, raw: bytes) -> tuple[bytes, list[Verdict]]:
        return await self._screener.screen("request", visit.policy, raw, visit.principal)

    async def _screened_arguments(self, visit: Visit, arguments: dict[str, Any], call: Call) -> dict[str, Any]:
        raw = encode(arguments)
        screened, verdicts = await self._screened(visit, raw)
        call.verdicts += verdicts
        return arguments if screened is raw else decode_object(screened)

    async def _screened_result(self, visit: Visit, raw: dict[str, Any], call: Call) -> CallToolResult:
        """The result as the policy lets it pass; one that it does not is an error that the model can read."""
        text = encode(raw)
        try:
            screened, verdicts = await self._screened(visit, text)
        except Screened as error:
            call.verdicts += error.verdicts
            told = "The tool's result is withheld: it holds what the policy of this project does not let pass."
            return CallToolResult(content=[TextContent(type="text", text=told)], is_error=True)
        call.verdicts += verdicts
        return CallToolResult.model_validate(raw if screened is text else decode_object(screened))

    def _span(self, visit: Visit, params: CallToolRequestParams) -> Span | None:
        """Below the caller's span: as his MCP client names it, else as the HTTP header does."""
        meta = params.meta if isinstance(params.meta, dict) else {}
        named = meta.get("traceparent")
        parent = parse_traceparent(named.encode("ascii", "replace")) if isinstance(named, str) else None
        parent = parent or visit.trace
        if not self._tracing.samples(parent):
            return None
        span = self._tracing.start(f"tools/call {UNKNOWN}", parent, SpanKind.SERVER)
        span.set_attribute(names.OPERATION, "execute_tool")
        span.set_attribute(names.PROJECT, visit.principal.project)
        return span


async def _all(lists: Iterable[Coroutine[Any, Any, list[dict[str, Any]]]]) -> list[list[dict[str, Any]]]:
    """As `asyncio.gather`, but none goes on after one has failed."""
    tasks = [asyncio.ensure_future(item) for item in lists]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def as_rpc(error: TidegateError) -> MCPError:
    """`error` as JSON-RPC has it; `data.code` is the code that the other APIs use."""
    code = INTERNAL_ERROR
    if isinstance(error, RateLimited | Overloaded):
        code = RATE_LIMITED
    elif isinstance(error, ClientError):
        code = INVALID_PARAMS
    return MCPError(code, error.message, {"code": error.error_code, "retryable": error.retryable})


def _outcome_of(error: TidegateError) -> Outcome:
    return Outcome.REFUSED if isinstance(error, ClientError | Overloaded) else Outcome.UPSTREAM_ERROR


def _renamed(visit: Visit, server: ToolServer, tool: dict[str, Any]) -> Tool:
    found = Tool.model_validate(tool)
    if not found.name:
        raise NotFound(f"The tool server {server.name!r} has a tool without a name.")
    return found.model_copy(update={"name": visit.offered(server, found.name)})


def _unsampled() -> bytes:
    return b"traceparent: %s\r\n" % unsampled_traceparent()
