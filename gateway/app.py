"""The gateway's composition root: everything is built here once and passed on.

One request, step by step (`pipeline.py` has a verb for each from 2 on):

 1. `front.py`      gives a hot path straight to the pipeline; FastAPI serves the rest. Both come from `api/routes.py`.
 2. `trace`         join the caller's trace or begin one
 3. `authenticate`  from the headers alone, against the snapshot in memory
 4. `reserve`       room in this process, request rate and a concurrency slot, before anything of the body is read
 5. `read`          the body once, bounded; only the fields we act on are decoded; from here on a hang-up cancels
 6. `admit`         model access, guarded fields; from here on there is exactly one usage row
 7. `screen_input`  the policy's guardrails on the caller's text
 8. `augment`       a preset's prompt, and passages found with the caller's own rights
 9. `prepare`       what will really be sent
10. `begin`         the journal's first record; from here on a crash leaves an `interrupted` row
11. `dispatch`      select a replica (`routing/`), send (`backends/`), pass the answer back (`relay.py`) through the
                    output guardrails; another replica only before the first event has reached the caller
12. `settle`        on every exit: give back, journal the row, metrics, span, log line
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from gateway.api.http import build_http
from gateway.augment import Augmenter
from gateway.auth.callers import AUDIENCE, Callers
from gateway.backends.service import ServiceClient
from gateway.dispatch import Dispatcher
from gateway.front import Gateway
from gateway.ledger.journal import Journal
from gateway.ledger.shipper import Shipper, recover_all
from gateway.limits.interface import ProjectLimits
from gateway.limits.room import Room
from gateway.limits.stores import open_limits
from gateway.mcp.door import ToolDoor
from gateway.mcp.federation import Federation
from gateway.mcp.meter import ToolMeter
from gateway.pipeline import Pipeline
from gateway.place import Place, journal_of
from gateway.routing.failover import Failover
from gateway.routing.select import Selector
from gateway.services import ServiceRelay
from gateway.settle import Settlement
from gateway.snapshot import SnapshotSource
from guardrails.offload.screener import Screener
from tidegate import plugins
from tidegate.config.settings import Settings
from tidegate.identity import Minter, Verifier
from tidegate.keys import read_pepper
from tidegate.serving.http import management
from tidegate.store.database import Database
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing

_SETTLE_S = 5.0
_FOLD_EVERY_S = 0.25


@asynccontextmanager
async def build(settings: Settings, log: JsonLog, place: Place | None = None) -> AsyncIterator[tuple[Gateway, FastAPI]]:
    """Everything a gateway needs, running: the public and the management application.

    With a `place` it is one of several workers: its supervisor ships the journal, and shows the metrics.
    On leaving, nothing may be in flight any more; the journal is shipped and every connection closed.

    Raises:
        OperatorError: pepper, journal, database, store of limits or a plugin is missing or wrong.
    """
    minter = Minter.read(settings.identity.signing_key_file)
    metrics = Metrics(place.shared_metrics if place else None)
    directory = settings.journal.directory
    exporters = [plugins.build("telemetry_sink", sink) for sink in settings.telemetry.sinks]
    parts = _Parts(
        settings=settings,
        log=log,
        metrics=metrics,
        tracing=Tracing("tidegate-gateway", settings.telemetry.sample_ratio, exporters),
        minter=minter,
        callers=Callers(
            read_pepper(settings.auth.key_pepper_file),
            Verifier.read(settings.identity.public_keys_file, AUDIENCE),
            metrics,
            log,
        ),
        journal=Journal(journal_of(directory, place.slot) if place else directory, settings.journal.segment_bytes),
        knowledge=ServiceClient(settings.knowledge.url, "knowledge", minter, settings.relay),
        agents=ServiceClient(settings.agents.url, "agents", minter, settings.relay),
        screener=Screener(settings.screening),
    )
    database = Database(settings.store)
    source = SnapshotSource(database, settings, minter, metrics, log)
    shipper = None if place else Shipper(directory, database, settings.journal, metrics, log)
    try:
        await database.require_current()
        await source.load()
        if shipper is not None:
            await asyncio.to_thread(recover_all, directory, settings.journal.segment_bytes, log)
        parts.journal.open()
        async with open_limits(settings.limits, place, metrics, log) as limits:
            gateway = _assembled(parts, source, limits)
            background = [
                asyncio.ensure_future(source.watch()),
                asyncio.ensure_future(source.discover()),
                asyncio.ensure_future(_fold(metrics) if shipper is None else shipper.run()),
            ]
            try:
                async with gateway.tools.running():
                    yield gateway, management(gateway.not_ready, metrics)
            finally:
                await _settle_rest(gateway.pipeline)
                await _end(background)
                if shipper is not None:
                    await shipper.ship_rest()
                metrics.fold()
    finally:
        source.close()
        await parts.close()
        await database.close()
        await asyncio.to_thread(parts.tracing.close)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is built before anything is opened."""

    settings: Settings
    log: JsonLog
    metrics: Metrics
    tracing: Tracing
    minter: Minter
    callers: Callers
    journal: Journal
    knowledge: ServiceClient
    agents: ServiceClient
    screener: Screener

    async def close(self) -> None:
        """Lets go of connections, the journal and the processes that screen."""
        self.knowledge.close()
        self.agents.close()
        self.journal.close()
        await self.screener.close()


def _assembled(parts: _Parts, source: SnapshotSource, limits: ProjectLimits) -> Gateway:
    """The gateway out of its parts."""
    settings, log, metrics, tracing = parts.settings, parts.log, parts.metrics, parts.tracing
    room = Room(settings, metrics)
    pipeline = Pipeline(
        settings,
        parts.callers,
        limits=limits,
        room=room,
        dispatcher=_dispatcher(parts),
        screener=parts.screener,
        settlement=Settlement(parts.journal, metrics, log, access_log=settings.telemetry.access_log),
        augmenter=Augmenter(parts.knowledge, settings.knowledge.search_timeout_s),
        tracing=tracing,
        metrics=metrics,
        log=log,
    )
    clients = {"knowledge": parts.knowledge, "agents": parts.agents}
    services = ServiceRelay(clients, settings, limits, parts.screener, tracing, metrics, log)
    federation = Federation(settings.mcp, limits, parts.screener, tracing, ToolMeter(parts.journal, metrics, log))
    tools = ToolDoor(source, parts.callers, federation, settings)
    http = build_http(source, parts.callers, services, room, log)
    http.state.minter = parts.minter
    return Gateway(source, pipeline, tools, http, parts.journal, metrics)


def _dispatcher(parts: _Parts) -> Dispatcher:
    routing = parts.settings.routing
    return Dispatcher(
        Selector(
            [plugins.build("routing_filter", item) for item in routing.filters],
            [plugins.build("routing_scorer", item) for item in routing.scorers],
        ),
        Failover(routing.retries),
        minter=parts.minter,
        tracing=parts.tracing,
        metrics=parts.metrics,
        log=parts.log,
        screener=parts.screener,
    )


async def _settle_rest(pipeline: Pipeline) -> None:
    """Requests that were cut off by the end of the grace still write their rows."""
    deadline = time.monotonic() + _SETTLE_S
    while pipeline.inflight and time.monotonic() < deadline:  # noqa: ASYNC110 - for milliseconds, once in a life
        await asyncio.sleep(0.01)


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _fold(metrics: Metrics) -> None:
    """Shows what this worker counts to its supervisor, for ever."""
    while True:
        await asyncio.sleep(_FOLD_EVERY_S)
        metrics.fold()
