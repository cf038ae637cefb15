"""The gateway's composition root: everything is built here once and passed on.

One request, step by step (`pipeline.py` has a verb for each from 2 on):

 1. `Gateway.__call__` gives a hot path straight to the pipeline; FastAPI serves the rest. Both come from `api/routes.py`.
 2. `trace`         join the caller's trace or begin one
 3. `authenticate`  from the headers alone, against the snapshot in memory
 4. `read`          the body once, bounded; only the fields we act on are decoded
 5. `admit`         model access, request rate, guarded fields; from here on there is exactly one usage row
 6. `screen_input`  the policy's guardrails on the caller's text
 7. `reserve`       a concurrency slot for what will really be sent
 8. `begin`         the journal's first record; from here on a hang-up cancels, a crash leaves an `interrupted` row
 9. `dispatch`      select a replica (`routing/`), send (`backends/`), pass the answer back (`relay.py`) through the
                    output guardrails; another replica only before the answer has begun
10. `settle`        on every exit: give back, journal the row, metrics, span, log line
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.http import NO_TELEMETRY, answer, build_http
from gateway.api.routes import ROUTES
from gateway.exchange import Exchange, Message, Receive, Scope, Send, new_request_id, public_id
from gateway.ledger.journal import Journal
from gateway.ledger.shipper import Shipper
from gateway.limits.memory import MemoryLimits
from gateway.pipeline import Pipeline
from gateway.routing.select import Selector
from gateway.settle import Settlement
from gateway.snapshot import SnapshotSource
from tidegate import plugins
from tidegate.config.settings import Settings
from tidegate.errors import MethodNotAllowed, Overloaded, StoreError
from tidegate.store.database import Database
from tidegate.store.keys import Pepper, read_pepper
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing

_SETTLE_S = 5.0
HOT_PATHS = {route.path: route.operation for route in ROUTES if route.operation is not None}


class Gateway:
    """The ASGI application of the public port."""

    def __init__(
        self, source: SnapshotSource, pipeline: Pipeline, pepper: Pepper, log: JsonLog, *, max_inflight: int
    ) -> None:
        self._source = source
        self._max_inflight = max_inflight
        self.pipeline = pipeline
        self.http = build_http(source, pepper, self.serve_hot, log)
        self.http.state.not_ready = self.not_ready
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. `scope["path"]` decides, never the Host header."""
        if scope["type"] == "http" and scope["path"] in HOT_PATHS:
            await self.serve_hot(scope, receive, send)
        else:
            await self.http(scope, receive, _with_id(scope, send))

    async def serve_hot(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of a hot path."""
        if scope["method"] != "POST":
            wrong = MethodNotAllowed(f"{scope['method']} is not allowed here; allowed: POST.", allow="POST")
            await answer(wrong)(scope, receive, _with_id(scope, send))
            return
        if len(self.pipeline.inflight) >= self._max_inflight:
            full = Overloaded(f"The gateway already serves {self._max_inflight} requests. Try again.")
            await answer(full)(scope, receive, _with_id(scope, send))
            return
        await self.pipeline.run(Exchange(scope, receive, send, self._source.current, HOT_PATHS[scope["path"]]))

    def not_ready(self) -> str | None:
        """Why no request should be sent here; None if all is well."""
        if self.stopping:
            return "stopping"
        return None if self._source.current.change_id else "no resources have been applied"


@asynccontextmanager
async def build(settings: Settings, log: JsonLog) -> AsyncIterator[tuple[Gateway, FastAPI]]:
    """Everything a gateway needs, running: the public and the management application.

    On leaving, nothing may be in flight any more; the journal is shipped and every connection closed.

    Raises:
        OperatorError: pepper, journal, database or a plugin is missing or wrong.
    """
    pepper = read_pepper(settings.auth.key_pepper_file)
    metrics = Metrics()
    exporters = [plugins.build("telemetry_sink", sink) for sink in settings.telemetry.sinks]
    tracing = Tracing("tidegate-gateway", settings.telemetry.sample_ratio, exporters)
    database = Database(settings.store)
    journal = Journal(settings.journal.directory, settings.journal.segment_bytes)
    source = SnapshotSource(database, settings, metrics, log)
    shipper = Shipper(journal, database, settings.journal, metrics, log)
    try:
        await database.require_current()
        await source.load()
        journal.open()
        await shipper.recover()
        pipeline = Pipeline(
            settings,
            pepper,
            limits=MemoryLimits(),
            selector=Selector(
                [plugins.build("routing_filter", item) for item in settings.routing.filters],
                [plugins.build("routing_scorer", item) for item in settings.routing.scorers],
            ),
            settlement=Settlement(journal, metrics, log, access_log=settings.telemetry.access_log),
            tracing=tracing,
            metrics=metrics,
            log=log,
        )
        gateway = Gateway(source, pipeline, pepper, log, max_inflight=settings.gateway.max_inflight_requests)
        background = [asyncio.ensure_future(source.watch()), asyncio.ensure_future(shipper.run())]
        try:
            yield gateway, _management(gateway, metrics)
        finally:
            await _settle_rest(pipeline)
            await _end(background)
            await _ship_rest(shipper, log)
    finally:
        source.close()
        journal.close()
        await database.close()
        await asyncio.to_thread(tracing.close)


def _management(gateway: Gateway, metrics: Metrics) -> FastAPI:
    """The management port: probes and metrics, no keys; keep it off the public network."""
    app = FastAPI(title="Tidegate management", docs_url=None, redoc_url=None, openapi_url=None, telemetry=NO_TELEMETRY)
    app.state.not_ready = gateway.not_ready
    for route in ROUTES:
        if route.open_to_all and route.endpoint is not None:
            app.add_api_route(route.path, route.endpoint, response_model=None)

    async def render_metrics(request: Request) -> Response:
        return Response(await asyncio.to_thread(metrics.render), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/metrics", render_metrics, response_model=None)
    return app


def _with_id(scope: Scope, send: Send) -> Send:
    """`send` that adds `x-request-id`, which the pipeline adds by itself."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            theirs = dict(scope["headers"]).get(b"x-request-id")
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", public_id(theirs, new_request_id(time.time()))),
            ]
        await send(message)

    return add


async def _settle_rest(pipeline: Pipeline) -> None:
    """Requests that were cut off by the end of the grace still write their rows."""
    deadline = time.monotonic() + _SETTLE_S
    while pipeline.inflight and time.monotonic() < deadline:  # noqa: ASYNC110 - for milliseconds, once in a life
        await asyncio.sleep(0.01)


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ship_rest(shipper: Shipper, log: JsonLog) -> None:
    try:
        async with asyncio.timeout(10):
            await shipper.ship()
    except (TimeoutError, StoreError) as error:
        log.write("warning", "journal_left_for_the_next_start", reason=str(error))
