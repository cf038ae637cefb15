"""One request on its way: the only mutable thing the stages share."""

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from opentelemetry.trace import Span

from gateway.backends.connection import Buffer
from gateway.routing.select import Pick
from gateway.snapshot import ServedModel, Snapshot
from guardrails.engine.policy import Policy
from guardrails.offload.screener import Inspection
from tidegate.errors import BodyTimeout, ClientGone, DeadlineExceeded, Stopping, TidegateError
from tidegate.identity import Caller
from tidegate.serving.call import Call
from tidegate.types import Outcome, Principal, Usage, Verdict
from tidegate.wire.openai import GenerateRequest
from tidegate.wire.skim import Skim

_CLIENT_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Upload(Protocol):
    """A form on its way; see `gateway/upload.py`."""

    head: bytes
    content_type: bytes
    """As it goes upstream."""
    more: bool
    begun: bool

    @property
    def length(self) -> int | None:
        """Bytes of the whole form, if known."""

    def rename(self, model: str) -> None:
        """Puts another model's name into the head."""

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """What comes after the head."""
        ...


class Stream(Protocol):
    """One stream's events on their way to the caller."""

    events: int
    """Events so far that `take` has seen and that are more than a comment."""
    done: bool
    """The last event has been taken."""
    cut: bool
    """A guardrail has ended it; what the model server still sends is not wanted."""

    def take(self, events: Sequence[bytes], out: list[bytes]) -> None:
        """Adds to `out` what may go to the caller now that `events` are here; those after the last one are left.

        Raises:
            UpstreamError: an event cannot be read, is an error, or ends the stream too early; what came before it is in
                `out`.
        """

    async def take_slowly(self, event: bytes, out: list[bytes]) -> None:
        """As `take`, for one long event; other tasks have their turn meanwhile."""
        ...

    def is_usual(self, event: bytes) -> bool:
        """Whether `event` is a plain piece of text like those before, and may go out at once."""
        ...


class Dialect(Protocol):
    """Whose words are spoken on a path: how an error looks, and what an answer says of itself."""

    counts_on_request: bool
    """Whether a stream tells its usage only where `stream_options` asks for it."""
    answer_kind: str
    """Which of `guardrails.offload.worker.SCREENS` reads a whole answer; empty where there is nothing to screen."""

    def render(self, error: TidegateError) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of `error`."""
        ...

    def render_event(self, error: TidegateError) -> bytes:
        """`error` as an event of a stream that has begun."""
        ...

    def open_stream(self, exchange: "Exchange") -> Stream:
        """The reader of a stream that begins."""
        ...

    def read_answer(self, body: bytes) -> Usage | None:
        """What a whole answer says of its tokens.

        Raises:
            UpstreamBroken: it is not an answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Operation:
    """What a path does."""

    name: str
    """GenAI's name of it, for telemetry."""
    dialect: Dialect
    generates: bool = False
    """Whether it writes text, and may stream it."""
    upload: bool = False
    """Whether the body is a form with a file, which is passed on as it comes."""


class Tried(NamedTuple):
    """An attempt that failed."""

    replica: str
    code: str


class Exchange:
    """What is known of a request so far. Stages fill it from top to bottom."""

    span: Span | None
    """Only where the trace is sampled."""
    trace_id: str = ""
    trace: bytes = b""
    """The header lines that carry the trace on to the model server."""
    principal: Principal | None
    policy: Policy | None
    delegated: Caller | None
    """What the request's token says, where a service makes the request for a caller."""
    parent_request_id: str | None
    """Where a service of ours calls: the request that it works on."""
    model: ServedModel | None
    request: GenerateRequest | None
    skim: Skim | None
    """A look at the body as it came; it holds the body's pieces, so not for longer than the checks need it."""
    inspection: Inspection | None
    """What another process has found out about a large body."""
    inline_media: bool = True
    """Whether the body may hold media, whose bytes are no text."""
    body: bytes = b""
    """As the caller sent it, or as a guardrail or a preset has changed it."""
    upload: Upload | None
    """In place of a body, where the operation is an upload."""
    parts: tuple[Buffer, ...]
    """What is sent on, in pieces, so that a large body is not copied for a small change."""
    stream: bool = False
    asked_for_usage: bool = False
    citations: list[dict[str, Any]] | None
    """Where the passages stand that a preset has shown to the model; None where nothing was searched."""

    entered: bool = False
    """It is counted among the requests that this process works on."""
    held_bytes: int = 0
    """What is counted of its body."""
    admitted: bool = False
    """From here on there is exactly one usage row."""
    reserved: bool = False
    begun: bool = False
    settled: bool = False
    row: dict[str, Any] | None
    """The usage row as journalled at `begin`."""

    pick: Pick | None
    tried: tuple[Tried, ...]
    """Attempts that failed before the answer began."""
    quiet_since: float = 0.0
    """Loop time since when the caller has heard nothing."""
    due: float = 0.0
    """Loop time when the body, and later the answer, is overdue."""
    cut_by: TidegateError | None
    """Why the task was cancelled; None if it was not, or the process is stopping."""
    sent_last: bool = False

    status: int | None
    outcome: Outcome
    error: TidegateError | None
    ttft_s: float | None
    usage: Usage | None
    pieces: int = 0
    """Pieces of text that the model server has streamed, one per token."""
    answer_bytes: int = 0
    """Of a whole answer."""
    finish_reason: str | None
    verdicts: Sequence[Verdict]

    def __init__(self, call: Call, snapshot: Snapshot, operation: Operation) -> None:
        self.call = call
        call.on_stop = self._stop
        self.snapshot = snapshot
        self.operation = operation
        self.path = call.path
        self.headers = call.fields
        self.started = time.perf_counter()
        self.started_at = time.time()
        self.request_id = new_request_id(self.started_at)
        self.public_id = public_id(self.headers.get(b"x-request-id"), self.request_id)
        # mypyc takes plain values from the class, but no others.
        self.span = self.principal = self.policy = self.delegated = self.parent_request_id = None
        self.model = self.request = self.skim = self.inspection = None
        self.upload = self.citations = self.row = self.pick = self.cut_by = self.status = self.error = None
        self.ttft_s = self.usage = self.finish_reason = None
        self.parts = self.tried = self.verdicts = ()
        self.outcome = Outcome.ERROR

    def known_principal(self) -> Principal:
        """The principal; calling this before authentication is our bug."""
        assert self.principal is not None  # noqa: S101
        return self.principal

    def known_model(self) -> ServedModel:
        """The model; calling this before `read` is our bug."""
        assert self.model is not None  # noqa: S101
        return self.model

    def overdue(self, now: float) -> None:
        """See `Limited`."""
        late = BodyTimeout("The body did not arrive in time.")
        over = DeadlineExceeded("The time given for this request is over.")
        self.cut(late if self.call.on_gone is None else over, also_at_the_end=True)

    def cut(self, reason: TidegateError, *, also_at_the_end: bool = False) -> None:
        """Cancels whatever is going on, unless only the end of the answer is yet to be taken by the caller."""
        task = self.call.task
        if task is None or self.settled or self.cut_by is not None or (self.sent_last and not also_at_the_end):
            return
        self.cut_by = reason
        task.cancel()

    def take_cut(self) -> TidegateError | None:
        """Call in place of letting a cancellation out: what the caller is to hear of it, if there still is a caller.

        Raises:
            CancelledError: it did not come from `cut`.
        """
        reason, task = self.cut_by, self.call.task
        self.outcome, self.error = Outcome.CANCELLED, reason or ClientGone("the server is stopping")
        if reason is None or task is None:
            raise asyncio.CancelledError
        task.uncancel()
        return None if isinstance(reason, ClientGone) else reason

    async def abandon(self) -> None:
        """Ends the connection of a caller who takes nothing, not even the last words."""
        self.call.abort()
        await asyncio.sleep(0)  # so that the server notices before this task returns

    async def unless_gone(self, asked: Awaitable[None]) -> None:
        """Awaits `asked`; a hang-up cancels. For waits before the body is read: who reads it notices a hang-up by itself."""
        self.watch()
        await asked
        self.call.on_gone = None

    def watch(self) -> None:
        """From here on a hang-up cancels; call it once the body is read."""
        self.call.on_gone = self._gone
        if self.call.gone:
            self._gone()

    def _gone(self) -> None:
        self.cut(ClientGone("the caller hung up"))

    def _stop(self) -> None:
        self.cut(Stopping("The gateway stopped before the answer was complete."), also_at_the_end=True)

    def carry_trace(self, value: bytes) -> None:
        """From here on the trace goes on under `value`, a traceparent."""
        self.trace = self.trace_lines(value)

    def trace_lines(self, value: bytes) -> bytes:
        """Complete header lines that carry the trace on."""
        lines = b"traceparent: %s\r\n" % value
        state = self.headers.get(b"tracestate")
        return lines + b"tracestate: %s\r\n" % state if state and len(state) <= 512 else lines

    def begin_again(self) -> None:
        """Forgets what a failed attempt has brought, none of which the caller has seen."""
        self.usage, self.pieces, self.answer_bytes, self.finish_reason = None, 0, 0, None
        self.verdicts = [verdict for verdict in self.verdicts if verdict.origin != "output"]

    def note_filtered(self, verdicts: list[Verdict]) -> None:
        """Notes that output guardrails ended at least one choice; nothing if there are no verdicts."""
        if verdicts:
            self.verdicts = [*self.verdicts, *verdicts]
            self.outcome = Outcome.FILTERED
            self.finish_reason = "content_filter"

    def mark_first_byte(self) -> None:
        """Notes when the first event, or the whole answer, went to the caller: from here on no other replica can help."""
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self.started
            if self.pick is not None:
                self.pick.replica.answered(time.monotonic())


def new_request_id(now: float) -> str:
    """Unique, and in order of time: milliseconds and 80 random bits. Not a secret."""
    return "req-" + (int(now * 1000) << 80 | random.getrandbits(80)).to_bytes(16, "big").hex()[1:]


def public_id(theirs: bytes | None, ours: str) -> bytes:
    """What `x-request-id` answers: the caller's own id if it is a plain one, else ours. Ours alone is unique."""
    return theirs if theirs and _CLIENT_ID.fullmatch(theirs) else ours.encode()
