"""FastAPI as the gateway uses it: routes from the table, keys checked, errors in OpenAI's shape."""

from typing import Any

from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.routes import ROUTES, Route
from gateway.auth.callers import Callers, credential
from gateway.limits.room import Room, Stay
from gateway.services import ServiceRelay
from gateway.snapshot import SnapshotSource
from tidegate import __version__
from tidegate.errors import NotFound, Unauthenticated
from tidegate.serving.http import NO_TELEMETRY, add_errors
from tidegate.telemetry.logs import JsonLog


def build_http(source: SnapshotSource, callers: Callers, services: ServiceRelay, room: Room, log: JsonLog) -> FastAPI:
    """The FastAPI side of the gateway; hot paths and tools are in its documentation, but never reach it."""
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
        header = credential(dict(request.scope["headers"]))
        request.state.principal, request.state.service = callers.identify(header, snapshot.keys)
        request.state.snapshot = snapshot
        request.state.stay = Stay(room, request.state.principal)  # `front.py` closes it

    async def check_service(request: Request) -> None:
        try:
            await check_key(request)
        except Unauthenticated:
            request.state.service = None
        if request.state.service is None:
            raise NotFound(f"There is no {request.method} {request.url.path} here.")

    for route in ROUTES:
        relayed = services.endpoint(route.path, route.service, upload=route.upload) if route.service else None
        app.add_api_route(
            route.path,
            route.endpoint or relayed or _served_before,
            methods=[route.method],
            summary=route.summary,
            tags=[route.tag],
            name=route.path,
            operation_id=_operation_id(route),
            dependencies=[Depends(check_service if route.for_services else check_key)] if route.checked else [],
            include_in_schema=not route.for_services,
            response_model=None,
            openapi_extra={**route.openapi, **({} if route.open_to_all else {"security": [{"api_key": []}]})},
        )
    add_errors(app, log)
    _add_security_scheme(app)
    return app


def _served_before() -> Response:
    raise AssertionError("the gateway serves this path before FastAPI sees it")


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
