"""One run from its request to its end: what the loop does, told as the events of the Responses API, then kept or forgotten."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from opentelemetry.trace import Span

from agents.answer import Answer, Usage
from agents.delegation import DELEGATION, Delegation
from agents.items import Event, Output
from agents.journal import RunJournal
from agents.loop import Loop, chat_message
from agents.tools import Toolbox, failed
from tidegate.config.settings import Settings
from tidegate.errors import TidegateError, UpstreamTimeout
from tidegate.store.database import Database
from tidegate.store.documents import Owner
from tidegate.store.responses import add_response
from tidegate.telemetry.tracing import Tracing

TOOL_TIMEOUT_S = 70.0
"""A little more than the gateway's own patience with a tool, whose words are better."""
_END_STATES = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


class Run:
    """Runs in a task of its own; who reads the events may leave at any time."""

    def __init__(
        self,
        answer: Answer,
        messages: list[dict[str, Any]],
        owner: Owner,
        expires_at: float,
        deps: "RunDeps",
    ) -> None:
        self.answer = answer
        self._messages = messages
        self._owner = owner
        self._expires_at = expires_at
        self._deps = deps
        self._output = Output(show_results="file_search_call.results" in (answer.request.include or ()))
        self._usage = Usage()
        self._journal = RunJournal(deps.database, owner, answer.response_id, expires_at, keeps_content=answer.kept)
        self._indexes: dict[tuple[str, Any], str] = {}
        """Message and index of a call, as chunks name it, to the call's id."""
        self._sequence = 0

    async def events(self, delegation: Delegation, span: Span | None) -> AsyncGenerator[Event, None]:
        """Every event of the run; leaving the iterator cancels model call and tools.

        Raises:
            TidegateError: it went wrong before the model said anything.
        """
        queue: asyncio.Queue[Event | TidegateError | None] = asyncio.Queue(64)
        DELEGATION.set(delegation)
        work = asyncio.ensure_future(self._guarded(queue, span))
        try:
            while (found := await queue.get()) is not None:
                if isinstance(found, TidegateError):
                    raise found
                yield {**found, "sequence_number": self._sequence}
                self._sequence += 1
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _guarded(self, queue: "asyncio.Queue[Event | TidegateError | None]", span: Span | None) -> None:
        """`_work`; what goes wrong even there (the database is away, say) reaches the reader."""
        try:
            await self._work(queue, span)
        except TidegateError as error:
            await queue.put(error)
        except Exception as error:  # noqa: BLE001 - else the reader would wait for ever
            self._deps.defect(error)
            await queue.put(TidegateError("The run failed. The incident is logged."))

    async def _work(self, queue: "asyncio.Queue[Event | TidegateError | None]", span: Span | None) -> None:
        said = False
        try:
            for kind in ("response.created", "response.in_progress"):
                await queue.put(self._told(kind))
            async with asyncio.timeout(self._deps.settings.run_timeout_s):
                async for event in self._run(span):
                    said = True
                    await queue.put(event)
            self._end()
        except TimeoutError:
            self._fail(UpstreamTimeout("The run took longer than it may."))
        except TidegateError as error:
            if not said:
                await self._journal.note("ended", {"status": "refused", "code": error.error_code})
                await queue.put(error)
                return
            self._fail(error)
        except asyncio.CancelledError:
            await asyncio.shield(self._journal.note("ended", {"status": "cancelled"}))
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours must still end the stream
            self._deps.defect(error)
            self._fail(TidegateError("The run failed. The incident is logged."))
        for event in self._output.give_up():
            await queue.put(event)
        await self._keep()
        await queue.put(self._told(_END_STATES[self.answer.status]))
        await queue.put(None)

    async def _run(self, span: Span | None) -> AsyncIterator[Event]:
        request, deps = self.answer.request, self._deps
        await self._journal.note(
            "started", {"model": request.model, "tools": len(request.tools)}, {"messages": self._messages}
        )
        async with Toolbox(request.tools, deps.http, deps.gateway_url, TOOL_TIMEOUT_S) as toolbox:
            for server in toolbox.servers.values():
                for event in self._output.tools_listed(server):
                    yield event
            loop = Loop(request, toolbox, self._journal, deps.settings, deps.tracing, span)
            async for mode, found in loop.run(deps.http, deps.gateway_url, self._messages):
                for event in self._translated(mode, found, toolbox):
                    yield event

    def _translated(self, mode: str, found: Any, toolbox: Toolbox) -> list[Event]:
        """What LangGraph tells, as events."""
        if mode == "custom":
            call_id, outcome = found
            return self._output.call_ended(call_id, outcome) if self._output.is_open(call_id) else []
        if mode == "messages":
            message = found[0]
            return self._spoken(message, toolbox) if isinstance(message, AIMessageChunk) else []
        events: list[Event] = []
        for update in found.values():
            for message in (update or {}).get("messages", []) if isinstance(update, dict) else []:
                events += self._complete(message, toolbox)
        return events

    def _spoken(self, chunk: AIMessageChunk, toolbox: Toolbox) -> list[Event]:
        """A piece of what the model says."""
        text = chunk.content if isinstance(chunk.content, str) else ""
        events = self._output.text(text) if text else []
        for piece in chunk.tool_call_chunks:
            place = (str(chunk.id), piece.get("index"))
            name, call_id = piece.get("name"), piece.get("id")
            if name and call_id and place not in self._indexes and name in toolbox.tools:
                self._indexes[place] = call_id
                events += self._output.call_began(call_id, toolbox.tools[name], name)
            if place in self._indexes:
                events += self._output.call_arguments(self._indexes[place], piece.get("args") or "")
        return events

    def _complete(self, message: BaseMessage, toolbox: Toolbox) -> list[Event]:
        """The model has ended its turn, or a tool its own."""
        if not isinstance(message, AIMessage | ToolMessage):
            return []
        self._messages.append(chat_message(message))
        if not isinstance(message, AIMessage):
            return []
        self._usage.add(message.usage_metadata)
        reason = message.response_metadata.get("finish_reason")
        if reason in ("length", "content_filter"):
            self.answer.incomplete_reason = "max_output_tokens" if reason == "length" else "content_filter"
        events = self._output.end_text("incomplete" if self.answer.incomplete_reason else "completed")
        for call in message.tool_calls:
            call_id = str(call["id"])
            if call["name"] in toolbox.tools:
                if not self._output.is_open(call_id):
                    events += self._output.call_began(call_id, toolbox.tools[call["name"]], call["name"])
                events += self._output.call_complete(call_id, call["args"], json.dumps(call["args"]))
        if any(
            call["name"] in toolbox.tools and toolbox.tools[call["name"]].kind == "function"
            for call in message.tool_calls
        ):
            events += self._leave_to_the_client(message, toolbox)
        return events

    def _leave_to_the_client(self, message: AIMessage, toolbox: Toolbox) -> list[Event]:
        """The client's functions come first: calls of ours in the same turn are not run, and the model is told."""
        events: list[Event] = []
        for call in message.tool_calls:
            tool = toolbox.tools.get(call["name"])
            if tool is None or tool.kind != "function":
                told = "This was not run, because a function of the client's came first. Call it again if it is needed."
                self._messages.append({"role": "tool", "tool_call_id": str(call["id"]), "content": told})
                if self._output.is_open(str(call["id"])):
                    events += self._output.call_ended(str(call["id"]), failed(told))
        return events

    def _end(self) -> None:
        self.answer.status = "incomplete" if self.answer.incomplete_reason else "completed"

    def _fail(self, error: TidegateError) -> None:
        self.answer.status, self.answer.error = "failed", error

    async def _keep(self) -> None:
        """Writes the response down, where the project lets it be kept."""
        self.answer.usage = self._usage
        await self._journal.note("ended", {"status": self.answer.status})
        if not self.answer.kept:
            return
        row = {
            "response_id": self.answer.response_id,
            "model": self.answer.request.model,
            "status": self.answer.status,
            "previous_response_id": self.answer.request.previous_response_id,
            "body": json.dumps(self.answer.shown(self._output.items)),
            "messages": json.dumps(self._messages),
            "created_at": self.answer.created_at,
            "expires_at": self._expires_at,
        }
        async with self._deps.database.transaction() as connection:
            await add_response(connection, self._owner, row)

    def _told(self, kind: str) -> Event:
        return {"type": kind, "response": self.answer.shown([dict(item) for item in self._output.items])}


class RunDeps:
    """What every run uses; built once by `service.py`."""

    def __init__(
        self, settings: Settings, database: Database, http: httpx2.AsyncClient, tracing: Tracing, defect: Any
    ) -> None:
        self.settings = settings.agents
        self.gateway_url = settings.gateway_url
        self.database = database
        self.http = http
        self.tracing = tracing
        self.defect = defect
