"""`/v1/responses`: create (whole or streamed), retrieve, delete. Source: https://platform.openai.com/docs/api-reference/responses."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx2
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agents.answer import Answer
from agents.delegation import Delegation
from agents.items import Event, new_id
from agents.request import CreateResponse, check, messages_of
from agents.run import Run, RunDeps
from tidegate.config.resources import Project, Resources
from tidegate.config.settings import AgentsSettings
from tidegate.errors import InvalidRequest, ModelNotFound, NotFound, TidegateError, render_event
from tidegate.serving.door import caller_of, span_of
from tidegate.serving.http import EventStream, read_json, unless_gone
from tidegate.serving.shares import Shares
from tidegate.store.database import Database
from tidegate.store.documents import Owner
from tidegate.store.resources import CurrentResources
from tidegate.store.responses import delete_response, get_response

router = APIRouter(prefix="/v1/responses")
KEEP_ALIVE_S = 15.0
_MOST_BODY_BYTES = 16_777_216
_NOT_KEPT_JOURNAL_DAYS = 1.0
_DAY_S = 86_400


@dataclass(slots=True)
class Parts:
    """What the service is made of; `service.py` builds it."""

    settings: AgentsSettings
    database: Database
    resources: CurrentResources
    deps: RunDeps
    plain_http: httpx2.AsyncClient
    """Without the run's credentials: for renewing them."""
    running: int = 0
    runs: Shares = field(init=False)

    def __post_init__(self) -> None:
        self.runs = Shares(self.settings.max_runs, "runs at once")


@router.post("", response_model=None)
async def create(request: Request) -> Response:
    """Runs to the end, or streams."""
    parts: Parts = request.app.state.parts
    asked = await read_json(request, CreateResponse, most_bytes=_MOST_BODY_BYTES)
    check(asked)
    run = await _prepared(request, parts, asked)
    token = request.headers.get("x-tidegate-delegation", "")
    events = run.events(Delegation(token, parts.deps.gateway_url, parts.plain_http), span_of(request))
    events = _counted(parts, _owner(request), events)
    if not asked.stream:
        return JSONResponse(await unless_gone(request, _last(events)))
    first = await unless_gone(request, _first_words(events))
    return EventStream(_as_sse(first, events))


@router.get("/{response_id}", response_model=None)
async def retrieve(request: Request, response_id: str) -> dict[str, Any]:
    """A kept response."""
    parts: Parts = request.app.state.parts
    async with parts.database.transaction() as connection:
        row = await get_response(connection, _owner(request), response_id)
    if row is None:
        raise _no_response(response_id)
    body: dict[str, Any] = json.loads(row["body"])
    return body


@router.delete("/{response_id}", response_model=None)
async def delete(request: Request, response_id: str) -> dict[str, Any]:
    """Deletes a kept response and the journal of its run."""
    parts: Parts = request.app.state.parts
    async with parts.database.transaction() as connection:
        if not await delete_response(connection, _owner(request), response_id):
            raise _no_response(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


async def _prepared(request: Request, parts: Parts, asked: CreateResponse) -> Run:
    """The run, with the conversation so far.

    Raises:
        InvalidRequest: the project forbids what is asked, or the input cannot be read.
        ModelNotFound: the project may not use the model.
        NotFound: the previous response is not there.
    """
    owner = _owner(request)
    project = await parts.resources.project(owner.organisation, owner.project)
    _check_model(asked.model, await parts.resources.read(), project)
    kept = _is_kept(asked, project)
    messages: list[dict[str, Any]] = []
    if asked.previous_response_id is not None:
        async with parts.database.transaction() as connection:
            row = await get_response(connection, owner, asked.previous_response_id)
        if row is None:
            raise _no_response(asked.previous_response_id, "previous_response_id")
        messages = json.loads(row["messages"])
    messages += messages_of(asked.input)
    _check_calls(messages)
    days = project.keep_responses_days if kept else _NOT_KEPT_JOURNAL_DAYS
    answer = Answer(new_id("resp"), asked, kept=kept)
    return Run(answer, messages, owner, time.time() + days * _DAY_S, parts.deps)


def _check_model(model: str, resources: Resources, project: Project) -> None:
    """The gateway would refuse it, too, but by then its name, which may be anything, would stand in journal and traces.

    Raises:
        ModelNotFound: there is no such model for this project.
    """
    offered = {item.name for item in resources.models} | {item.name for item in resources.presets}
    if model not in offered or not (project.all_models or model in project.models):
        raise ModelNotFound(f"The model {model[:128]!r} does not exist or this key may not use it.", param="model")


def _is_kept(asked: CreateResponse, project: Project) -> bool:
    if asked.store and not project.store_responses:
        raise InvalidRequest("This project does not let responses be kept. Send `store: false`.", param="store")
    return project.store_responses and asked.store is not False


def _check_calls(messages: list[dict[str, Any]]) -> None:
    """Every output must answer a call, and every call must be answered.

    Raises:
        InvalidRequest: otherwise; a model server would refuse it in other words.
    """
    asked = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    if unknown := set(answered) - set(asked):
        raise InvalidRequest(f"No function call has the call_id {sorted(unknown)[0][:64]!r}.", param="input")
    if open_calls := set(asked) - set(answered):
        raise InvalidRequest(f"The function call {sorted(open_calls)[0][:64]!r} has no output yet.", param="input")


async def _counted(parts: Parts, owner: Owner, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The events, unless too many runs are under way.

    Raises:
        Overloaded, RateLimited: they are, or too many of the project's.
    """
    project = (owner.organisation, owner.project)
    parts.runs.take(project)
    parts.running += 1
    try:
        async with aclosing(events) as source:
            async for event in source:
                yield event
    finally:
        parts.running -= 1
        parts.runs.give_back(project)


async def _last(events: AsyncGenerator[Event, None]) -> dict[str, Any]:
    """The response at its end.

    Raises:
        TidegateError: it failed.
    """
    last: Event = {}
    async with aclosing(events) as source:
        async for event in source:
            last = event
    found: dict[str, Any] = last["response"]
    return found


async def _first_words(events: AsyncIterator[Event]) -> list[Event]:
    """Events until the model has said something, so that a refusal can still have a status of its own.

    Raises:
        TidegateError: the request was refused.
    """
    first = []
    async for event in events:
        first.append(event)
        if event["type"] not in ("response.created", "response.in_progress"):
            break
    return first


async def _as_sse(first: list[Event], events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    """Events as they come; a comment now and then while nothing does, so that nobody takes the connection for dead."""
    waiting: asyncio.Future[Event] | None = None
    try:
        for event in first:
            yield _encoded(event)
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([waiting], timeout=KEEP_ALIVE_S)
            if not done:
                yield b": keep-alive\n\n"
                continue
            try:
                event, waiting = waiting.result(), None
            except StopAsyncIteration:
                return
            except TidegateError as error:
                yield render_event(error)
                return
            yield _encoded(event)
    finally:  # where the caller has left, nothing can be awaited here: the server cancels again and again
        if waiting is not None and not waiting.done():
            waiting.cancel()  # unwinds the events from within
        else:
            await asyncio.shield(asyncio.ensure_future(events.aclose()))


def _encoded(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _owner(request: Request) -> Owner:
    caller = caller_of(request)
    return Owner(caller.organisation, caller.project)


def _no_response(response_id: str, param: str = "response_id") -> NotFound:
    return NotFound(f"There is no response {response_id[:64]!r} in this project.", param=param)
