"""What every request to a service behind the gateway goes through: an internal token, a span, a log line, two metrics."""

import time
from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI
from opentelemetry.trace import Span, SpanKind
from starlette.requests import Request
from starlette.types import Message

from tidegate.errors import TidegateError
from tidegate.identity import Caller, TokenRefused, Verifier
from tidegate.serving.call import Call
from tidegate.serving.http import NO_TELEMETRY, add_errors, answer
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing, fail, parse_traceparent

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


def caller_of(request: Request) -> Caller:
    """On whose behalf the request comes."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def span_of(request: Request) -> Span | None:
    """The request's span; None where the trace is not sampled."""
    span: Span | None = request.scope["state"]["span"]
    return span


def build_app(title: str, log: JsonLog) -> FastAPI:
    """An empty application with our errors."""
    app = FastAPI(
        title=title, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, telemetry=NO_TELEMETRY
    )
    add_errors(app, log)
    return app


class Door:
    """What stands in front of all routes of a service behind the gateway."""

    def __init__(self, app: FastAPI, verifier: Verifier, tracing: Tracing, metrics: Metrics, log: JsonLog) -> None:
        self._app = app
        self._verifier = verifier
        self._tracing = tracing
        self._metrics = metrics
        self._log = log
        self._stopping = False

    def stop(self) -> None:
        """From here on the process reports that it is not ready."""
        self._stopping = True

    def not_ready(self) -> str | None:
        """Why no request should be sent here; None if all is well."""
        return "stopping" if self._stopping else None

    async def __call__(self, call: Call) -> None:
        """One request."""
        began, status = time.perf_counter(), 0
        span, scope = self._span(call.fields), call.scope()
        scope["state"] = {"span": span, "caller": None}

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await call.send(message)

        try:
            await self._authenticated(scope, call.fields)(scope, call.receive, note_status)
        finally:
            self._note(scope, span, status, time.perf_counter() - began)

    def _authenticated(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Any:
        """The application if the token holds, else the refusal."""
        try:
            scope["state"]["caller"] = self._verifier.verify(headers.get(b"authorization", b"").decode("latin-1"))
        except TokenRefused as error:
            self._metrics.count(names.TOKENS_REFUSED, error.reason)
            self._log.write("warning", "internal_token_refused", reason=error.reason)
            return answer(error)
        except TidegateError as error:
            return answer(error)
        return self._app

    def _span(self, headers: dict[bytes, bytes]) -> Span | None:
        parent = parse_traceparent(headers.get(b"traceparent"))
        return self._tracing.start("request", parent, SpanKind.SERVER) if self._tracing.samples(parent) else None

    def _note(self, scope: MutableMapping[str, Any], span: Span | None, status: int, duration_s: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "unknown"
        caller: Caller | None = scope["state"]["caller"]
        self._metrics.count(names.SERVICE_REQUESTS, route, str(status))
        self._metrics.observe(names.SERVICE_DURATION, duration_s, route)
        if span is not None:
            span.update_name(f"{method} {route}")
            span.set_attribute(names.ROUTE, route)
            span.set_attribute(names.HTTP_STATUS, status)
            if caller is not None:
                span.set_attribute(names.REQUEST_ID, caller.request_id)
            if status >= 500:
                fail(span, str(status))
            span.end()
        self._log.write(
            "info",
            "request",
            request_id=caller.request_id if caller else None,
            method=method,
            route=route,
            status=status,
            organisation=caller.organisation if caller else None,
            project=caller.project if caller else None,
            key_id=caller.key_id if caller else None,
            duration_ms=round(duration_s * 1000, 2),
        )
