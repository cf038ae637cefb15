"""The loop: LangGraph's agent between a model and its tools, both behind the gateway's public door.

LangGraph decides what comes next; this file says how a model is called, how a tool is, and when the client's own functions
end the run. https://docs.langchain.com/oss/python/langchain/middleware.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import openai
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages, convert_to_openai_messages
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.config import get_stream_writer
from opentelemetry.trace import Span, SpanKind

from agents.delegation import SPAN
from agents.journal import RunJournal
from agents.request import CreateResponse
from agents.tools import Outcome, Tool, Toolbox, failed
from tidegate.config.settings import AgentsSettings
from tidegate.errors import (
    ContentFiltered,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    ServiceUnavailable,
    TidegateError,
    Unauthenticated,
    UpstreamBroken,
    UpstreamTimeout,
)
from tidegate.telemetry import names
from tidegate.telemetry.tracing import Tracing

MOST_OUTPUT_CHARACTERS = 32_768
"""Of a tool's answer, for the model; what is longer is cut, and it is told so."""


UNKNOWN_TOOL = "unknown"
"""Stands in the journal for a name that the model has made up."""


class TooManyTurns(InvalidRequest):
    """The run has called the model as often as it may."""

    code = "max_turns_exceeded"


class Loop(AgentMiddleware):
    """One run's way through the agent."""

    def __init__(
        self,
        request: CreateResponse,
        toolbox: Toolbox,
        journal: RunJournal,
        settings: AgentsSettings,
        tracing: Tracing,
        span: Span | None,
    ) -> None:
        super().__init__()
        self._request = request
        self._toolbox = toolbox
        self._journal = journal
        self._settings = settings
        self._tracing = tracing
        self._span = span
        self._turns = 0
        self._calls = 0
        self._most_calls = settings.max_tool_calls
        if request.max_tool_calls is not None:
            self._most_calls = min(self._most_calls, request.max_tool_calls)

    async def run(
        self, http: httpx2.AsyncClient, gateway_url: str, messages: list[dict[str, Any]]
    ) -> AsyncIterator[tuple[str, Any]]:
        """What happens, as LangGraph streams it: `messages`, `updates` and our `custom` tool results.

        Raises:
            TidegateError: a model call failed for good.
        """
        stubs = [_stub(tool) for tool in self._toolbox.tools.values() if tool.kind != "function"]
        agent: Any = create_agent(
            self._model(http, gateway_url), stubs or None, system_prompt=self._request.instructions, middleware=[self]
        )
        limit = 4 * self._settings.max_turns + 10  # LangGraph counts nodes; ours is the limit that tells
        try:
            async for mode, found in agent.astream(
                {"messages": convert_to_messages(messages)},
                {"recursion_limit": limit},
                stream_mode=["messages", "updates", "custom"],
            ):
                yield mode, found
        except openai.APIError as error:
            raise as_ours(error) from error

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """See AgentMiddleware: a forced choice holds for the first call only, a cut call is not run."""
        self._turns += 1
        if self._turns > self._settings.max_turns:
            raise TooManyTurns(f"The run has called the model {self._settings.max_turns} times without an end.")
        await self._journal.note("model_called", {"turn": self._turns})
        asked = request.override(tools=[tool.chat_tool for tool in self._toolbox.tools.values()])
        if asked.tools:
            asked = asked.override(tool_choice=self._choice(), model_settings=self._tool_settings())
        with self._tracing.child(f"chat {self._request.model}", self._span, SpanKind.CLIENT) as span:
            mark = SPAN.set(span)
            try:
                answer = await handler(asked)
            finally:
                SPAN.reset(mark)
        message = answer.result[-1]
        cut = message.response_metadata.get("finish_reason") in ("length", "content_filter")
        if cut and (message.tool_calls or message.invalid_tool_calls):
            answer.result[-1] = AIMessage(
                content=message.content or "",
                id=message.id,
                response_metadata=message.response_metadata,
                usage_metadata=message.usage_metadata,
            )
        await self._journal.note("model_answered", {"turn": self._turns}, {"message": chat_message(answer.result[-1])})
        return answer

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """See AgentMiddleware: where the model calls a function of the client's, the run ends and the client goes on."""
        calls = state["messages"][-1].tool_calls
        theirs = [call for call in calls if self._kind(call["name"]) == "function"]
        return {"jump_to": "end"} if theirs else None

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Any) -> ToolMessage:
        """See AgentMiddleware: calls the tool, and tells the stream and the journal."""
        call = request.tool_call
        call_id, tool = str(call["id"]), self._toolbox.tools.get(call["name"])
        facts = {"call_id": call_id, "tool": tool.name if tool else UNKNOWN_TOOL}
        await self._journal.note("tool_began", facts, {"arguments": call["args"]})
        outcome = await self._called(tool, call["name"], call["args"])
        await self._journal.note(
            "tool_ended", {**facts, "failed": outcome.error is not None}, {"output": outcome.output}
        )
        get_stream_writer()((call_id, outcome))
        content = outcome.output
        if len(content) > MOST_OUTPUT_CHARACTERS:
            content = f"{content[:MOST_OUTPUT_CHARACTERS]}\n[cut: {len(content)} characters in all]"
        return ToolMessage(content, tool_call_id=call_id, status="error" if outcome.error else "success")

    async def _called(self, tool: Tool | None, name: str, arguments: dict[str, Any]) -> Outcome:
        if tool is None:
            return failed(f"There is no tool {name[:128]!r}.")
        self._calls += 1
        if self._calls > self._most_calls:
            return failed(f"No more than {self._most_calls} tool calls are allowed. Answer without tools.")
        with self._tracing.child(f"execute_tool {name}", self._span, SpanKind.CLIENT) as span:
            if span is not None:
                span.set_attribute(names.OPERATION, "execute_tool")
                span.set_attribute(names.TOOL_NAME, name)
            mark = SPAN.set(span)
            try:
                return await self._toolbox.call(tool, arguments)
            finally:
                SPAN.reset(mark)

    def _kind(self, name: str) -> str | None:
        tool = self._toolbox.tools.get(name)
        return tool.kind if tool else None

    def _choice(self) -> Any:
        """`tool_choice` of this call."""
        if self._calls >= self._most_calls:
            return "none"
        if self._turns > 1:
            return "auto"
        return chat_choice(self._request.tool_choice, self._toolbox)

    def _tool_settings(self) -> dict[str, Any]:
        return {"parallel_tool_calls": False} if self._request.parallel_tool_calls is False else {}

    def _model(self, http: httpx2.AsyncClient, gateway_url: str) -> ChatOpenAI:
        request = self._request
        given = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_completion_tokens": request.max_output_tokens,
        }
        return ChatOpenAI(
            model=request.model,
            base_url=f"{gateway_url}/v1",
            api_key="delegated",  # replaced by `DelegatedAuth`
            http_async_client=http,
            max_retries=0,
            streaming=True,
            stream_usage=True,
            stream_chunk_timeout=None,  # it uses asyncio.wait_for, which in Python 3.11 may swallow a cancellation
            **{name: value for name, value in given.items() if value is not None},
        )


def chat_choice(given: Any, toolbox: Toolbox) -> Any:
    """`tool_choice` of a response as chat completions take it.

    Raises:
        InvalidRequest: a choice of a tool that is not there, or of an unknown form.
    """
    if given is None or given in ("auto", "none", "required"):
        return given or "auto"
    found = [tool for tool in toolbox.tools.values() if _is_chosen(tool, given)] if isinstance(given, dict) else []
    if not found:
        raise InvalidRequest("`tool_choice` names no tool of this request.", param="tool_choice")
    if len(found) > 1:
        return "required"
    return {"type": "function", "function": {"name": found[0].name}}


def _is_chosen(tool: Tool, choice: dict[str, Any]) -> bool:
    match choice.get("type"):
        case "function":
            return tool.kind == "function" and tool.name == choice.get("name")
        case "mcp":
            named = choice.get("name") in (None, tool.own_name)
            return tool.kind == "mcp" and tool.server == choice.get("server_label") and named
        case "file_search":
            return tool.kind == "file_search"
    return False


def _stub(tool: Tool) -> StructuredTool:
    """What LangGraph must know of a tool to have it called; `awrap_tool_call` calls it."""
    function = tool.chat_tool["function"]

    async def never(**arguments: Any) -> str:
        raise NotImplementedError

    return StructuredTool(
        name=tool.name,
        description=function["description"] or tool.name,
        args_schema=function["parameters"],
        coroutine=never,
    )


def chat_message(message: BaseMessage) -> dict[str, Any]:
    """A message as chat completions take it."""
    found = convert_to_openai_messages(message)
    assert isinstance(found, dict)  # noqa: S101
    return found


def as_ours(error: openai.APIError) -> TidegateError:
    """What the door said about a model call, as an error of ours."""
    message, code = error.message, error.code
    if isinstance(error, openai.APITimeoutError):
        return UpstreamTimeout("The model did not answer in time.")
    if isinstance(error, openai.APIConnectionError):
        return ServiceUnavailable("The gateway does not answer.")
    status = error.status_code if isinstance(error, openai.APIStatusError) else 0
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or message)
    match status:
        case 401 | 403:
            return Unauthenticated(message, code=code)
        case 404:
            return ModelNotFound(message, param="model")
        case 429:
            retry_after = (
                error.response.headers.get("retry-after", "1") if isinstance(error, openai.APIStatusError) else "1"
            )
            return RateLimited(message, retry_after_s=float(retry_after) if retry_after.isdigit() else 1.0)
        case _ if 400 <= status < 500:
            return ContentFiltered(message) if code == "content_filter" else InvalidRequest(message, code=code)
        case 503:
            return ServiceUnavailable(message, code=code)
    return UpstreamBroken(message, code=code)
