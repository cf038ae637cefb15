"""Requests that another service of ours answers: files, vector stores, responses. Checked, limited, screened, passed on.

Unlike a model's answer they are not a stream and use no tokens, so there is no usage row: a span, a log line, two metrics.
"""

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from opentelemetry.trace import Span, SpanKind
from starlette.requests import Request
from starlette.responses import Response

from gateway.backends.service import ServiceAnswer, ServiceClient, ServiceRequest, ServiceStream
from gateway.forms import boundary_of, content_type_of
from gateway.limits.interface import ProjectLimits
from gateway.limits.room import Stay
from gateway.snapshot import Snapshot
from guardrails.offload.screener import Screener
from tidegate.config.settings import Settings
from tidegate.errors import (
    NotFound,
    TidegateError,
    UnsupportedMediaType,
)
from tidegate.identity import caller_for
from tidegate.serving.http import EventStream, read_body, unless_gone
from tidegate.serving.shares import Shares
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing, fail, parse_traceparent, traceparent, unsampled_traceparent
from tidegate.types import Principal

Endpoint = Callable[[Request], Awaitable[Response]]
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PARAMETER = re.compile(r"\{(\w+)\}")
_FORM_BYTES = 65_536
_UPLOADS_AT_ONCE = 8
_PATIENCE_S = 10.0


class ServiceRelay:
    """Makes the endpoints."""

    def __init__(
        self,
        clients: Mapping[str, ServiceClient],
        settings: Settings,
        limits: ProjectLimits,
        screener: Screener,
        tracing: Tracing,
        metrics: Metrics,
        log: JsonLog,
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._limits = limits
        self._screener = screener
        self._tracing = tracing
        self._metrics = metrics
        self._log = log
        self._uploads = Shares(_UPLOADS_AT_ONCE, "uploads at once")

    def endpoint(self, template: str, service: str, *, upload: bool) -> Endpoint:
        """What answers the path `template`; an `upload` is a form with a file, everything else JSON."""
        way = _Way(template, service, upload)

        async def serve(request: Request) -> Response:
            return await self._serve(request, way)

        return serve

    async def _serve(self, request: Request, way: "_Way") -> Response:
        visit = _Visit(request, way.template, time.perf_counter())
        parent = parse_traceparent(request.headers.get("traceparent", "").encode("latin-1"))
        if self._tracing.samples(parent):
            visit.span = self._tracing.start(f"{request.method} {way.template}", parent, SpanKind.SERVER)
        try:
            answer = await self._relayed(request, way, visit.span)
        except TidegateError as error:
            visit.status = error.status
            self._note(visit, error.error_code or error.type)
            raise
        except Exception:
            self._note(visit, "defect")
            raise
        except BaseException:
            visit.status = 499
            self._note(visit, "client_gone")
            raise
        visit.status = answer.status
        if isinstance(answer, ServiceStream):
            return EventStream(self._noted(answer.pieces, visit), answer.status)
        self._note(visit)
        return Response(answer.body, answer.status, {"content-type": answer.content_type})

    async def _noted(self, pieces: AsyncGenerator[bytes, None], visit: "_Visit") -> AsyncGenerator[bytes, None]:
        """The pieces; when they end, or the caller leaves, it is written down."""
        code: str | None = "client_gone"
        try:
            async with aclosing(pieces) as source:
                async for piece in source:
                    yield piece
            code = None
        finally:
            self._note(visit, code)

    async def _relayed(self, request: Request, way: "_Way", span: Span | None) -> ServiceAnswer | ServiceStream:
        principal: Principal = request.state.principal
        asked = self._limits.admit(principal)
        if asked is not None:
            await asked
        if request.state.service is None:  # else it belongs to a request that has a slot
            await request.state.stay.reserve(self._limits)
        path = _path(request, way.template)
        if way.upload:
            body = await self._read(request, self._settings.knowledge.max_file_bytes + _FORM_BYTES)
            form = ServiceRequest(request.method, path, body, _form_type(request))
            project = (principal.organisation, principal.project)
            self._uploads.take(project)  # only now: who sends slowly keeps nobody waiting
            try:
                return await self._call(request, way, form, span)
            finally:
                self._uploads.give_back(project)
        most = principal.limits.max_body_bytes or self._settings.gateway.max_body_bytes
        body = await self._read(request, most)
        body = await unless_gone(request, self._screened(request, body))
        return await self._call(
            request, way, ServiceRequest(request.method, path, body, replay=request.method != "POST"), span
        )

    async def _call(
        self, request: Request, way: "_Way", asked: ServiceRequest, span: Span | None
    ) -> ServiceAnswer | ServiceStream:
        state, client = request.state, self._clients[way.service]
        caller = caller_for(state.principal, state.request_id, state.service)
        with self._tracing.child(names.SPAN_CALL, span, SpanKind.CLIENT) as call:
            value = traceparent(call) if call is not None else unsampled_traceparent()
            trace = b"traceparent: %s\r\n" % value
            if way.service != "agents":
                timeout_s = self._settings.knowledge.timeout_s
                return await unless_gone(request, client.call(asked, caller, trace=trace, timeout_s=timeout_s))
            asked = replace(asked, lines=b"x-tidegate-delegation: %s\r\n" % client.delegate(caller).encode())
            timeout_s = self._settings.agents.run_timeout_s + _PATIENCE_S
            return await unless_gone(request, client.stream(asked, caller, trace=trace, timeout_s=timeout_s))

    async def _read(self, request: Request, most: int) -> bytes:
        stay: Stay = request.state.stay
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) <= most:
            stay.check(int(declared))
        timeout_s = self._settings.gateway.body_timeout_s
        return await read_body(request, most_bytes=most, timeout_s=timeout_s, hold=stay.hold)

    async def _screened(self, request: Request, body: bytes) -> bytes:
        """The JSON body as the policy lets it pass.

        Raises:
            ContentFiltered, InvalidRequest, UnsupportedMediaType: it does not.
        """
        if not body:
            return body
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("The body must be JSON: send `content-type: application/json`.")
        snapshot: Snapshot = request.state.snapshot
        policy = snapshot.policies[request.state.principal.policy]
        body, verdicts = await self._screener.screen("request", policy, body, request.state.principal)
        for verdict in verdicts:
            self._metrics.count(names.VERDICTS, verdict.guardrail, verdict.origin, verdict.action, by=verdict.findings)
        return body

    def _note(self, visit: "_Visit", code: str | None = None) -> None:
        request, duration_s = visit.request, time.perf_counter() - visit.began
        principal: Principal = request.state.principal
        self._metrics.count(names.SERVICE_REQUESTS, visit.template, str(visit.status))
        self._metrics.observe(names.SERVICE_DURATION, duration_s, visit.template)
        if visit.span is not None:
            visit.span.set_attribute(names.ROUTE, visit.template)
            visit.span.set_attribute(names.HTTP_STATUS, visit.status)
            visit.span.set_attribute(names.REQUEST_ID, request.state.request_id)
            visit.span.set_attribute(names.ORGANISATION, principal.organisation)
            visit.span.set_attribute(names.PROJECT, principal.project)
            if code is not None:
                fail(visit.span, code)
            visit.span.end()
        if self._settings.telemetry.access_log:
            self._log.write(
                "info",
                "request",
                request_id=request.state.request_id,
                path=visit.template,
                method=request.method,
                status=visit.status,
                code=code,
                organisation=principal.organisation,
                project=principal.project,
                key_id=principal.key_id,
                duration_ms=round(duration_s * 1000, 2),
            )


@dataclass(frozen=True, slots=True)
class _Way:
    """One row of the table of paths."""

    template: str
    service: str
    upload: bool


@dataclass(slots=True)
class _Visit:
    """One request, as far as it must be written down."""

    request: Request
    template: str
    began: float
    status: int = 500
    span: Span | None = None


def _path(request: Request, template: str) -> str:
    """The path to ask for: the template with the caller's ids, and his query.

    Raises:
        NotFound: what stands in place of an id cannot be one.
    """
    for name, value in request.path_params.items():
        if not _ID.fullmatch(str(value)):
            raise NotFound(f"There is no such {name.removesuffix('_id').replace('_', ' ')} in this project.")
    path = _PARAMETER.sub(lambda match: str(request.path_params[match[1]]), template)
    query = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _form_type(request: Request) -> bytes:
    """The content type of an upload as the knowledge service gets it: the boundary, and nothing else of the client's.

    Raises:
        UnsupportedMediaType: not a form in UTF-8.
    """
    return content_type_of(boundary_of(request.headers.get("content-type", "").encode("latin-1")))
