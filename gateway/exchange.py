"""One request on its way: the only mutable thing the stages share."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry.trace import Span

from gateway.routing.select import Pick
from gateway.snapshot import ServedModel, Snapshot
from guardrails.engine.policy import Policy
from tidegate.errors import TidegateError
from tidegate.types import Outcome, Principal, Usage, Verdict
from tidegate.wire.openai import GenerateRequest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CLIENT_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Exchange:
    """What is known of a request so far. Stages fill it from top to bottom."""

    __slots__ = (
        "admitted", "answer_bytes", "asked_for_usage", "begun", "body", "body_late", "client_gone", "due",
        "error", "finish_reason", "headers", "headers_sent", "model", "operation", "outcome", "path", "pick",
        "pieces", "policy", "principal", "public_id", "receive", "request", "request_id", "reserved", "row",
        "send", "sent_last", "settled", "snapshot", "span", "started", "started_at", "status", "stream", "task",
        "trace", "trace_id", "tried", "ttft_s", "usage", "verdicts", "watcher",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, snapshot: Snapshot, operation: str) -> None:
        self.receive = receive
        self.send = send
        self.snapshot = snapshot
        self.operation = operation
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = time.perf_counter()
        self.started_at = time.time()
        self.request_id = new_request_id(self.started_at)
        self.public_id = public_id(self.headers.get(b"x-request-id"), self.request_id)

        self.span: Span | None = None
        """Only where the trace is sampled."""
        self.trace_id = ""
        self.trace = b""
        """Header lines that carry the trace on to the model server."""
        self.principal: Principal | None = None
        self.policy: Policy | None = None
        self.model: ServedModel | None = None
        self.request: GenerateRequest | None = None
        self.body = b""
        self.stream = False
        self.asked_for_usage = False

        self.admitted = False
        """From here on there is exactly one usage row."""
        self.reserved = False
        self.begun = False
        self.row: dict[str, Any] | None = None
        """The usage row as journalled at `begin`."""
        self.settled = False

        self.pick: Pick | None = None
        self.tried: tuple[str, ...] = ()
        """Replicas that failed before the answer began."""
        self.task: asyncio.Task[Any] | None = None
        self.watcher: asyncio.Future[Message] | None = None
        self.client_gone = False
        self.due = 0.0
        self.body_late = False
        self.headers_sent = False
        self.sent_last = False

        self.status: int | None = None
        self.outcome = Outcome.ERROR
        self.error: TidegateError | None = None
        self.ttft_s: float | None = None
        self.usage: Usage | None = None
        self.pieces = 0
        """Pieces of text that the model server has streamed; it sends one per token."""
        self.answer_bytes = 0
        self.finish_reason: str | None = None
        self.verdicts: list[Verdict] = []

    def known_principal(self) -> Principal:
        """The principal; calling this before authentication is our bug."""
        assert self.principal is not None  # noqa: S101
        return self.principal

    def known_model(self) -> ServedModel:
        """The model; calling this before `read` is our bug."""
        assert self.model is not None  # noqa: S101
        return self.model

    def overdue(self, now: float) -> None:
        """See `Limited`: the body has not arrived in time."""
        if self.task is not None and not self.body_late:
            self.body_late = True
            self.task.cancel()

    def note_filtered(self, verdicts: list[Verdict]) -> None:
        """Notes that output guardrails ended at least one choice; nothing if there are no verdicts."""
        if verdicts:
            self.verdicts += verdicts
            self.outcome = Outcome.FILTERED
            self.finish_reason = "content_filter"

    def mark_first_byte(self) -> None:
        """Notes when the first answer byte went to the caller."""
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self.started


def new_request_id(now: float) -> str:
    """Unique, and in order of time: milliseconds and 80 random bits. Not a secret."""
    return f"req-{int(now * 1000):011x}{random.getrandbits(80):020x}"


def public_id(theirs: bytes | None, ours: str) -> bytes:
    """What `x-request-id` answers: the caller's own id if it is a plain one, else ours. Ours alone is unique."""
    return theirs if theirs and _CLIENT_ID.fullmatch(theirs) else ours.encode()
