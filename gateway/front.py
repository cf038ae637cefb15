"""The public port: hot paths go straight to the pipeline, tools to their door, everything else to FastAPI."""

import time
from collections.abc import Coroutine
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from gateway.api.routes import ROUTES
from gateway.exchange import Exchange, Operation, new_request_id, public_id
from gateway.ledger.journal import Journal
from gateway.limits.room import Stay
from gateway.mcp.door import ToolDoor
from gateway.pipeline import Pipeline
from gateway.snapshot import SnapshotSource
from tidegate.errors import MethodNotAllowed, NotFound, TidegateError
from tidegate.serving.call import Call, header_lines, is_encoded
from tidegate.serving.http import answer
from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics

_MAY_BE_ENCODED = b"/v1/models/"
"""Below it stands a model's name, which may have a slash; no other path has anything to escape."""
HOT_PATHS = {route.path: route.operation for route in ROUTES if route.operation is not None}


class Gateway:
    """What answers on the public port."""

    def __init__(
        self,
        source: SnapshotSource,
        pipeline: Pipeline,
        tools: ToolDoor,
        http: FastAPI,
        journal: Journal,
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._metrics = metrics
        self._journal = journal
        self.pipeline = pipeline
        self.tools = tools
        self.http = http
        self.http.state.tool_metadata = tools.metadata
        self.http.state.not_ready = self.not_ready
        self.stopping = False

    def __call__(self, call: Call) -> Coroutine[Any, Any, None]:
        """One request. Its path decides, never the Host header."""
        operation = HOT_PATHS.get(call.path)
        if operation is None or (b"%" in call.target and is_encoded(call.target)):
            return self._serve_rest(call)
        refusal = self._refusal(call.method)
        if refusal is not None:
            return self._refuse(call, operation, refusal)
        return self.pipeline.run(Exchange(call, self._source.current, operation))

    async def _serve_rest(self, call: Call) -> None:
        request_id, scope = new_request_id(time.time()), call.scope()
        send = _with_id(scope, call.send, request_id)
        if is_encoded(call.target) and not scope["raw_path"].startswith(_MAY_BE_ENCODED):
            await answer(NotFound(f"There is no {call.method} path with escapes here. Write it out."))(
                scope, call.receive, send
            )
        elif (call.path + "/").startswith("/mcp/") and call.path[-1] != "/":
            await self.tools(scope, call.receive, send)
        else:
            scope["state"]["request_id"] = request_id
            await self._serve_by_http(scope, call.receive, send)

    async def _serve_by_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.http(scope, receive, send)
        finally:
            stay: Stay | None = scope["state"].get("stay")
            if stay is not None:
                stay.close()

    async def _refuse(self, call: Call, operation: Operation, error: TidegateError) -> None:
        self._metrics.count(names.REFUSALS, error.error_code or error.type)
        request_id = new_request_id(time.time())
        status, headers, body = operation.dialect.render(error)
        theirs = public_id(call.fields.get(b"x-request-id"), request_id).decode()
        ids = [("x-request-id", theirs), ("x-tidegate-request-id", request_id)]
        call.start(status, header_lines([*headers, *ids]), len(body))
        call.end(body)

    def _refusal(self, method: str) -> TidegateError | None:
        """Why a request does not even enter the pipeline."""
        if method != "POST":
            return MethodNotAllowed(f"{method} is not allowed here; allowed: POST.", allow="POST")
        return None

    def stop(self) -> None:
        """From here on the process reports that it is not ready."""
        self.stopping = True

    def not_ready(self) -> str | None:
        """Why no request should be sent here; None if all is well."""
        if self.stopping:
            return "stopping"
        if trouble := self._journal.trouble():
            return f"the usage journal cannot be written: {trouble}"
        return None if self._source.current.change_id else "no resources have been applied"


def _with_id(scope: Scope, send: Send, request_id: str) -> Send:
    """`send` that adds the ids of the request, which the pipeline adds by itself."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            theirs = dict(scope["headers"]).get(b"x-request-id")
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", public_id(theirs, request_id)),
                (b"x-tidegate-request-id", request_id.encode()),
            ]
        await send(message)

    return add
