"""`/mcp` and `/mcp/{server}` as ASGI: Origin, credentials, then the official SDK, which speaks both protocol eras.

Source: https://modelcontextprotocol.io/specification (transports, authorization), RFC 9728.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from gateway.auth.callers import Callers
from gateway.mcp.federation import Federation
from gateway.mcp.shares import Shares
from gateway.mcp.visit import VISIT, Visit
from gateway.snapshot import SnapshotSource
from tidegate.config.settings import Settings
from tidegate.errors import Forbidden, MethodNotAllowed, NotFound, TidegateError, Unauthenticated
from tidegate.serving.http import answer, read_body
from tidegate.telemetry.tracing import parse_traceparent

PATH = "/mcp"
METADATA_PATH = "/.well-known/oauth-protected-resource"
_REQUESTS_PER_CALL = 4
"""How many requests of every kind may be at the door for each tool call that may run."""
_BODIES_BYTES = 67_108_864
_RESOURCE = re.compile(PATH + r"(?:/[A-Za-z0-9_-]{1,64})?")
"""What a client may ask about without credentials; whether the server exists is not told."""


class NoCredentials(Unauthenticated):
    """`Unauthenticated` that says where a client learns how to get a token."""

    metadata_url = ""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """As RFC 9728 section 5.1 asks."""
        others = [header for header in super().headers if header[0] != "www-authenticate"]
        return [*others, ("www-authenticate", f'Bearer resource_metadata="{self.metadata_url}"')]


class ToolDoor:
    """The ASGI application of the paths below `/mcp`."""

    def __init__(self, source: SnapshotSource, callers: Callers, federation: Federation, settings: Settings) -> None:
        self._source = source
        self._callers = callers
        self._settings = settings.mcp
        self._body_timeout_s = settings.gateway.body_timeout_s
        self._url = settings.mcp.public_url or settings.gateway_url
        self._manager = StreamableHTTPSessionManager(
            federation.server, stateless=True, max_request_body_size=settings.mcp.max_request_bytes
        )
        self._requests = Shares(_REQUESTS_PER_CALL * settings.mcp.max_calls, "requests for tools at the same time")
        self._bodies = Shares(
            max(_BODIES_BYTES, 4 * settings.mcp.max_request_bytes), "bytes of requests for tools at the same time"
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Enter once. The SDK's task group lives in a task of its own: what the body raises comes out as it is."""
        started = asyncio.Event()

        async def hold() -> None:
            async with self._manager.run():
                started.set()
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(hold())
        await started.wait()
        try:
            yield
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with ExitStack() as held:
            try:
                visit = self._visit(scope)
                body = await self._body(held, visit, Request(scope, receive))
            except TidegateError as error:
                await answer(error)(scope, receive, send)
                return
            await self._handle(visit, scope, _again(body, receive), send)

    async def _body(self, held: ExitStack, visit: Visit, request: Request) -> bytes:
        """The body, within the project's shares, which are `held`.

        Raises:
            MethodNotAllowed: a stream of what servers send by themselves, which they do not: they keep no sessions.
            RateLimited, Overloaded: there is no room for it.
            BodyTooLarge, BodyTimeout, ClientGone: as `read_body`.
        """
        if request.method != "POST":
            raise MethodNotAllowed("Only POST is allowed here: tool servers keep no sessions.", allow="POST")
        most = self._settings.max_request_bytes
        declared = request.headers.get("content-length", "")
        held.enter_context(self._requests.taken(visit.principal))
        held.enter_context(
            self._bodies.taken(visit.principal, min(int(declared) or 1, most) if declared.isdigit() else most)
        )
        return await read_body(request, most_bytes=most, timeout_s=self._body_timeout_s)

    async def _handle(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        token = VISIT.set(visit)
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            VISIT.reset(token)

    def metadata(self, request: Request) -> dict[str, Any]:
        """What a client without credentials needs to know (RFC 9728).

        Raises:
            NotFound: the path is not one of the tools'.
        """
        resource = request.scope["path"].removeprefix(METADATA_PATH) or PATH
        if not _RESOURCE.fullmatch(resource):
            raise NotFound("Only /mcp and the paths of tool servers below it have such a document.")
        return {
            "resource": self._url + resource,
            "resource_name": "Tidegate tools",
            "authorization_servers": self._settings.authorization_servers,
            "bearer_methods_supported": ["header"],
        }

    def _visit(self, scope: Scope) -> Visit:
        """Who comes, and where to.

        Raises:
            TidegateError: a foreign web page, no credentials, or no such server.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._settings.allowed_origins:
            raise Forbidden("This Origin may not call; the platform team can allow it.", code="origin_not_allowed")
        only = scope["path"].removeprefix(PATH).removeprefix("/") or None
        snapshot = self._source.current
        try:
            principal, service = self._callers.identify(headers.get(b"authorization"), snapshot.keys)
        except Unauthenticated as error:
            refusal = NoCredentials(error.message, code=error.error_code)
            resource = scope["path"] if _RESOURCE.fullmatch(scope["path"]) else PATH
            refusal.metadata_url = f"{self._url}{METADATA_PATH}{resource}"
            raise refusal from error
        visit = Visit(principal, snapshot, service, parse_traceparent(headers.get(b"traceparent")), only)
        if only is not None:
            visit.servers()
        return visit


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for somebody who wants to read the body himself; then it tells of a hang-up, as before."""
    unread = True

    async def once() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return once
