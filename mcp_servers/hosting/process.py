"""One tool server as a process: streamable HTTP on `/mcp`, stateless, both protocol eras, internal tokens only."""

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from mcp_servers.hosting.tokens import Refused, TokenChecker, caller

_GRACE_S = 10
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MOST_REQUEST_BYTES = 1_048_576
_log = logging.getLogger("mcp_servers")


@dataclass(frozen=True, slots=True)
class Deps:
    """What a server may use."""

    name: str
    gateway_url: str
    otlp_endpoint: str | None = None


class _JsonLines(logging.Formatter):
    """One JSON object per line, without the values of library messages."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        event = record.getMessage() if record.name == _log.name else str(record.msg)[:200]
        line = {"at": round(record.created, 3), "level": record.levelname.lower(), "service": f"mcp:{self._name}"}
        return json.dumps({**line, "event": event, **getattr(record, "fields", {})})


def serve(build: Callable[[Deps], MCPServer], deps: Deps, checker: TokenChecker, host: str, port: int) -> int:
    """Serves until SIGTERM; the exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(deps.name))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])  # before the SDK sets up its own
    _log.setLevel(logging.INFO)
    provider = _tracing(deps)
    application = build(deps).streamable_http_app(
        stateless_http=True,
        max_request_body_size=_MOST_REQUEST_BYTES,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # tokens guard it
    )
    config = uvicorn.Config(
        Guard(application, checker),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=75,
    )
    server = _Server(config)
    asyncio.run(_until_signal(server))
    if provider is not None:
        provider.shutdown()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Signals are handled by `_until_signal`, so that a stop in good order exits with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _until_signal(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve()


def _tracing(deps: Deps) -> TracerProvider | None:
    """The SDK makes its spans with the global provider."""
    if deps.otlp_endpoint is None:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"mcp-{deps.name}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(deps.otlp_endpoint), schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    return provider


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Meters:
    """What the process counts; names as in the other processes (docs/telemetry.md)."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.refused = Counter(
            "tidegate_internal_tokens_refused",
            "Calls between services whose token did not hold",
            ("reason",),
            registry=self.registry,
        )
        self.duration = Histogram(
            "tidegate_service_request_duration_seconds",
            "Whole time of a request",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )


class Guard:
    """Lets requests with a good internal token through, the liveness probe, and whoever reads the metrics."""

    def __init__(self, app: App, checker: TokenChecker) -> None:
        self._app = app
        self._checker = checker
        self._meters = Meters()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == "/healthz":
            await _answer(send, 200, b'{"status":"ok"}')
            return
        if scope["path"] == "/metrics":
            await _answer(send, 200, generate_latest(self._meters.registry), CONTENT_TYPE_LATEST)
            return
        headers = dict(scope["headers"])
        delegation = headers.get(b"x-tidegate-delegation")
        try:
            found = self._checker.check(
                headers.get(b"authorization", b"").decode("latin-1"),
                delegation.decode("latin-1") if delegation else None,
            )
        except Refused as error:
            self._meters.refused.labels(str(error)).inc()
            _log.warning("internal_token_refused", extra={"fields": {"reason": str(error)}})
            await _answer(send, 401, b'{"error":{"message":"The internal token does not hold here."}}')
            return
        began, token = time.perf_counter(), caller.set(found)
        try:
            await self._app(scope, receive, send)
        finally:
            caller.reset(token)
            duration_s = time.perf_counter() - began
            self._meters.duration.labels("/mcp").observe(duration_s)
            took = {"request_id": found.request_id, "duration_ms": round(duration_s * 1000, 2)}
            _log.info("request", extra={"fields": took})


async def _answer(send: Send, status: int, body: bytes, media_type: str = "application/json") -> None:
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
