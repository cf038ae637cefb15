"""FastAPI as every service uses it: no telemetry of its own, errors in OpenAI's shape, probes and metrics apart."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from tidegate.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Stopping,
    TidegateError,
    render,
    render_event,
)
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics

T = TypeVar("T")
_BODY_TIMEOUT_S = 30.0
NO_TELEMETRY: Any = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""FastAPI's own telemetry is off: the services make the spans and count."""


async def read_json(request: Request, kind: type[T], *, most_bytes: int) -> T:
    """The body as a `kind`; an empty body is an empty object.

    Raises:
        InvalidRequest: not JSON, nested too deeply, or not of this form.
        BodyTooLarge, BodyTimeout, ClientGone: as `read_body`.
    """
    body = await read_body(request, most_bytes=most_bytes, timeout_s=_BODY_TIMEOUT_S)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The body is not valid: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error


async def read_body(
    request: Request, *, most_bytes: int, timeout_s: float, hold: Callable[[int], None] | None = None
) -> bytes:
    """The body, bounded in size and time; `hold` is called with the size of each piece, and may refuse it.

    Raises:
        BodyTooLarge, BodyTimeout, ClientGone: it is too large, too slow, or will not come.
        TidegateError: what `hold` raises.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most_bytes:
        raise BodyTooLarge(f"The body has {int(declared)} bytes; {most_bytes} are allowed.")
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in request.stream():
                if hold is not None and piece:
                    hold(len(piece))
                body += piece
                if len(body) > most_bytes:
                    raise BodyTooLarge(f"The body is larger than the {most_bytes} bytes allowed.")
    except TimeoutError as error:
        raise BodyTimeout("The body did not arrive in time.") from error
    except ClientDisconnect as error:
        raise ClientGone("the caller hung up before the body was complete") from error
    return bytes(body)


async def unless_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """`answer`, unless the caller hangs up before: then it is cancelled.

    Raises:
        ClientGone: the caller has hung up.
    """
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone("the caller hung up")
        return work.result()
    finally:
        for task in (work, gone):
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events from an asynchronous generator, which is closed on every exit: Starlette leaves that to chance.

    Where the process stops before the end, a last event says so.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], status: int = 200) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, status, headers, "text/event-stream; charset=utf-8")
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """See StreamingResponse."""
        try:
            async with aclosing(self._events):
                await super().stream_response(send)
        except asyncio.CancelledError:  # it stops, or the caller has gone and hears nothing
            last = b"\n\n" + render_event(Stopping("The service stopped before the answer was complete."))
            await send({"type": "http.response.body", "body": last, "more_body": False})
            raise


def answer(error: TidegateError) -> Response:
    """`error` as a response."""
    status, headers, body = render(error)
    return Response(body, status, dict(headers))


def add_errors(app: FastAPI, log: JsonLog) -> None:
    """Makes every error of `app`, the framework's included, come out in OpenAI's shape."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, TidegateError)  # noqa: S101
        return answer(error)

    async def starlettes(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            return answer(MethodNotAllowed(f"{request.method} is not allowed here; allowed: {allow}.", allow=allow))
        if error.status_code == 400:
            return answer(InvalidRequest(f"{error.detail}."))
        return answer(NotFound(f"There is no {request.method} {request.url.path} here."))

    async def validations(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        where = ".".join(str(part) for part in error.errors()[0]["loc"][1:])
        return answer(InvalidRequest(f"{error.errors()[0]['msg']}.", param=where or None))

    async def defects(request: Request, error: Exception) -> Response:
        route = request.scope.get("route")
        log.write("error", "defect", error=type(error).__name__, path=getattr(route, "path", None), where=where(error))
        return answer(TidegateError("The service failed. The incident is logged."))

    app.add_exception_handler(TidegateError, ours)
    app.add_exception_handler(HTTPException, starlettes)
    app.add_exception_handler(RequestValidationError, validations)
    app.add_exception_handler(Exception, defects)


def where(error: BaseException) -> str:
    """File and line of a defect, without values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "?"


async def healthz() -> dict[str, str]:
    """`/healthz`: 200 while the loop turns."""
    return {"status": "ok"}


async def readyz(request: Request) -> JSONResponse:
    """`/readyz`: 200 if requests may be sent here, else 503 with the reason."""
    reason = request.app.state.not_ready()
    if reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)


def management(not_ready: Callable[[], str | None], metrics: Metrics) -> FastAPI:
    """The management port: probes and metrics, no keys; keep it off the public network."""
    app = FastAPI(title="Tidegate management", docs_url=None, redoc_url=None, openapi_url=None, telemetry=NO_TELEMETRY)
    app.state.not_ready = not_ready

    async def render_metrics(request: Request) -> Response:
        metrics.fold()
        return Response(await asyncio.to_thread(metrics.render), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/healthz", healthz, response_model=None)
    app.add_api_route("/readyz", readyz, response_model=None)
    app.add_api_route("/metrics", render_metrics, response_model=None)
    return app
