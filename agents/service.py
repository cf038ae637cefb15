"""The agents service's composition root: everything is built here once and passed on.

A response's way: `api.py` (read, project's policy, conversation so far) → `run.py` (a task of its own, events, journal) →
`loop.py` (LangGraph's agent) → `tools.py`; model and tool calls go through the gateway's public door (`delegation.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI

from agents import api
from agents.delegation import DelegatedAuth
from agents.run import RunDeps
from tidegate import plugins
from tidegate.config.settings import Settings
from tidegate.errors import StoreError
from tidegate.identity import Verifier
from tidegate.serving.door import Door, build_app
from tidegate.serving.http import management, where
from tidegate.store.database import Database
from tidegate.store.resources import CurrentResources
from tidegate.store.responses import delete_expired
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing

AUDIENCE = "agents"
_FORGET_EVERY_S = 60.0
_SETTLE_S = 5.0


@asynccontextmanager
async def build(settings: Settings, log: JsonLog) -> AsyncIterator[tuple[Door, FastAPI]]:
    """Everything the service needs, running: the service and its management application.

    Raises:
        OperatorError: keys, database or a plugin is missing or wrong.
    """
    verifier = Verifier.read(settings.identity.public_keys_file, AUDIENCE)
    metrics = Metrics()
    exporters = [plugins.build("telemetry_sink", sink) for sink in settings.telemetry.sinks]
    tracing = Tracing("tidegate-agents", settings.telemetry.sample_ratio, exporters)
    database = Database(settings.store)
    await database.require_current()
    patience = httpx2.Timeout(settings.agents.run_timeout_s, connect=5.0)
    room = httpx2.Limits(max_connections=512, keepalive_expiry=60.0)
    http = httpx2.AsyncClient(auth=DelegatedAuth(), timeout=patience, limits=room, trust_env=False)
    plain = httpx2.AsyncClient(trust_env=False)

    def defect(error: Exception) -> None:
        log.write("error", "defect", error=type(error).__name__, where=where(error))

    parts = api.Parts(
        settings.agents,
        database,
        CurrentResources(database, settings.store.refresh_interval_s),
        RunDeps(settings, database, http, tracing, defect),
        plain,
    )
    app = build_app("Tidegate agents", log)
    app.state.parts = parts
    app.include_router(api.router)
    door = Door(app, verifier, tracing, metrics, log)
    forgetting = asyncio.ensure_future(_forget_expired(database, log))
    try:
        yield door, management(door.not_ready, metrics)
    finally:
        await _settle_rest(parts)
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
        await http.aclose()
        await plain.aclose()
        await database.close()
        await asyncio.to_thread(tracing.close)


async def _settle_rest(parts: api.Parts) -> None:
    """Runs that were cut off by the end of the grace still write down how they ended."""
    deadline = time.monotonic() + _SETTLE_S
    while parts.running and time.monotonic() < deadline:  # noqa: ASYNC110 - for milliseconds, once in a life
        await asyncio.sleep(0.01)


async def _forget_expired(database: Database, log: JsonLog) -> None:
    """Deletes responses that have been kept long enough, for ever."""
    while True:
        try:
            async with database.transaction() as connection:
                if count := await delete_expired(connection):
                    log.write("info", "responses_expired", count=count)
        except StoreError as error:
            log.write("error", "responses_not_expired", reason=error.message)
        await asyncio.sleep(_FORGET_EVERY_S)
