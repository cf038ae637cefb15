"""FastAPI as the gateway uses it: routes from the table, keys checked, errors in OpenAI's shape."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.routes import ROUTES, Route
from gateway.auth.api_keys import authenticate
from gateway.snapshot import SnapshotSource
from tidegate import __version__
from tidegate.errors import InvalidRequest, MethodNotAllowed, NotFound, TidegateError, render
from tidegate.store.keys import Pepper
from tidegate.telemetry.logs import JsonLog

NO_TELEMETRY: Any = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""FastAPI's own telemetry is off: the pipeline makes the spans and counts."""
HotHandler = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_http(source: SnapshotSource, pepper: Pepper, hot: HotHandler, log: JsonLog) -> FastAPI:
    """The FastAPI side of the gateway; `hot` serves the hot paths when they are reached through it."""
    app = FastAPI(
        title="Tidegate",
        version=__version__,
        summary="One OpenAI-compatible door in front of your own model servers",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
    )

    async def check_key(request: Request) -> None:
        snapshot = source.current
        header = request.headers.get("authorization")
        encoded = None if header is None else header.encode("latin-1")
        request.state.principal = authenticate(encoded, snapshot.keys, pepper)
        request.state.snapshot = snapshot

    def hot_endpoint() -> Response:
        return _Hot(hot)

    for route in ROUTES:
        app.add_api_route(
            route.path,
            route.endpoint or hot_endpoint,
            methods=[route.method],
            summary=route.summary,
            tags=[route.tag],
            name=route.path,
            operation_id=_operation_id(route),
            dependencies=[] if route.open_to_all or route.operation else [Depends(check_key)],
            response_model=None,
            openapi_extra={**route.openapi, **({} if route.open_to_all else {"security": [{"api_key": []}]})},
        )
    _add_errors(app, log)
    _add_security_scheme(app)
    return app


class _Hot(Response):
    """Hands the request over to the pipeline, which authenticates it like any other."""

    def __init__(self, handler: HotHandler) -> None:
        super().__init__()
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope, receive, send)


def answer(error: TidegateError) -> Response:
    """`error` as a response."""
    status, headers, body = render(error)
    return Response(body, status, dict(headers))


def _add_errors(app: FastAPI, log: JsonLog) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, TidegateError)  # noqa: S101
        return answer(error)

    async def starlettes(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            return answer(MethodNotAllowed(f"{request.method} is not allowed here; allowed: {allow}.", allow=allow))
        return answer(NotFound(f"There is no {request.method} {request.url.path} here."))

    async def validations(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        where = ".".join(str(part) for part in error.errors()[0]["loc"][1:])
        return answer(InvalidRequest(f"{error.errors()[0]['msg']}.", param=where or None))

    async def defects(request: Request, error: Exception) -> Response:
        log.write("error", "defect", error=type(error).__name__, path=request.scope["path"])
        return answer(TidegateError("The gateway failed. The incident is logged."))

    app.add_exception_handler(TidegateError, ours)
    app.add_exception_handler(HTTPException, starlettes)
    app.add_exception_handler(RequestValidationError, validations)
    app.add_exception_handler(Exception, defects)


def _add_security_scheme(app: FastAPI) -> None:
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["api_key"] = {"type": "http", "scheme": "bearer", "description": "A Tidegate key, tg-…"}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _operation_id(route: Route) -> str:
    parts = [part for part in route.path.removeprefix("/v1").replace("{", "").replace(":path}", "").split("/") if part]
    return "_".join((route.method.lower(), *parts))
