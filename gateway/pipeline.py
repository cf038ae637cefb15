"""The stages of a request, one verb each, in the order in which `run` calls them.

Streaming and non-streaming take the same stages. Whatever happens, `settle` runs last and runs once.
"""

import asyncio
from collections.abc import Callable

from opentelemetry.trace import SpanKind

from gateway.augment import Augmenter
from gateway.auth.callers import Callers, credential
from gateway.body import check_content_type, prepare, receive_body
from gateway.deadlines import Deadlines, patience_s
from gateway.dispatch import Dispatcher
from gateway.exchange import Exchange
from gateway.limits.interface import ProjectLimits
from gateway.limits.room import Room
from gateway.relay import begin_answer, send_last
from gateway.settle import Settlement
from gateway.upload import read_form
from guardrails.engine.media import check_media
from guardrails.engine.requests import Refused, check_fields, check_preset
from guardrails.offload.screener import Screener
from tidegate.config.settings import Settings
from tidegate.errors import (
    BodyTooLarge,
    ClientError,
    ClientGone,
    DeadlineExceeded,
    InvalidRequest,
    Stopping,
    TidegateError,
    UpstreamError,
    UpstreamRejected,
)
from tidegate.identity import caller_for
from tidegate.serving.call import header_lines
from tidegate.serving.http import where
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing, parse_traceparent, traceparent, unsampled_traceparent
from tidegate.types import Outcome
from tidegate.wire.request import read_request
from tidegate.wire.skim import MAX_INLINE_BYTES, Skim

_FORM_BYTES = 1_376_256
"""What is held of a form at most: its beginning, and pieces on their way through."""
_LAST_WORDS_S = 2.0
"""How long a caller has to take an error."""
_MAX_PRESET_TOKENS = 50_000
"""A preset's request is decoded as a whole."""


class Pipeline:
    """Takes a request from its headers to its usage row. Built once by `app.py`; holds no request's state."""

    def __init__(  # noqa: PLR0913 - the composition root passes everything in
        self,
        settings: Settings,
        callers: Callers,
        *,
        limits: ProjectLimits,
        room: Room,
        dispatcher: Dispatcher,
        screener: Screener,
        settlement: Settlement,
        augmenter: Augmenter,
        tracing: Tracing,
        metrics: Metrics,
        log: JsonLog,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._augmenter = augmenter
        self._max_body_bytes = settings.gateway.max_body_bytes
        self._max_upload_bytes = settings.gateway.max_upload_bytes
        self._body_timeout_s = settings.gateway.body_timeout_s
        self._max_request_s = settings.relay.max_request_s
        self._callers = callers
        self._limits = limits
        self._room = room
        self._dispatcher = dispatcher
        self._screener = screener
        self._settlement = settlement
        self._tracing = tracing
        self._metrics = metrics
        self._log = log
        metrics.watch(names.INFLIGHT, lambda: {(): len(self.inflight)})
        metrics.watch(names.TASKS, lambda: {(): len(asyncio.all_tasks(self._loop))})
        metrics.watch(names.WAITING, lambda: self._by_model(_is_waiting))
        metrics.watch(names.INFLIGHT_TOKENS, lambda: self._by_model(_tokens_of))
        self._deadlines = Deadlines()
        self.inflight: set[Exchange] = set()

    async def run(self, exchange: Exchange) -> None:
        """Runs every stage; answers the caller, also about errors, unless the caller has gone."""
        self.inflight.add(exchange)
        failure: TidegateError | None = None
        try:
            try:
                self.trace(exchange)
                self.authenticate(exchange)
                await self.reserve(exchange)
                await self.read(exchange)
                self.admit(exchange)
                await self.screen_input(exchange)
                await self.augment(exchange)
                self.prepare(exchange)
                self.begin(exchange)
                await self.dispatch(exchange)
            except TidegateError as error:
                failure = error
            except asyncio.CancelledError:
                failure = exchange.take_cut()
            except Exception as error:  # noqa: BLE001 - a defect of ours must still be answered, and settled
                failure = self._note_defect(exchange, error)
            if failure is not None:
                await self.refuse(exchange, failure)
        finally:
            self.settle(exchange)

    def _by_model(self, weigh: Callable[[Exchange], int]) -> dict[tuple[str, ...], float]:
        """Sums over what model servers work on, by the model that works, whatever preset was named."""
        found: dict[tuple[str, ...], float] = {}
        for exchange in self.inflight:
            if exchange.row is not None and not exchange.settled:
                model = exchange.known_model()
                key = (model.name if model.preset is None else model.preset.model,)
                found[key] = found.get(key, 0) + weigh(exchange)
        return found

    def _note_defect(self, exchange: Exchange, error: Exception) -> TidegateError:
        """Logs a fault of ours; what the caller hears of it."""
        self._log.write(
            "error", "defect", request_id=exchange.request_id, error=type(error).__name__, where=where(error)
        )
        return TidegateError("The gateway failed. The incident is logged under this request id.")

    def trace(self, exchange: Exchange) -> None:
        """Joins the caller's trace or begins one."""
        incoming = exchange.headers.get(b"traceparent")
        parent = None if incoming is None else parse_traceparent(incoming)
        if self._tracing.samples(parent):
            exchange.span = self._tracing.start(exchange.operation.name, parent, SpanKind.SERVER)
            exchange.trace_id = f"{exchange.span.get_span_context().trace_id:032x}"
            return
        value = unsampled_traceparent(parent)
        exchange.trace_id = value[3:35].decode()
        exchange.carry_trace(value)

    def authenticate(self, exchange: Exchange) -> None:
        """Who is calling, from the headers alone."""
        header = credential(exchange.headers)
        snapshot = exchange.snapshot
        exchange.principal, service = self._callers.identify(header, snapshot.keys)
        exchange.delegated = service
        exchange.parent_request_id = None if service is None else service.request_id
        exchange.policy = snapshot.policies[exchange.principal.policy]

    async def reserve(self, exchange: Exchange) -> None:
        """A place in this process, one request of the project's minute, and a slot; before anything of the body is read."""
        principal = exchange.known_principal()
        self._room.enter(principal)
        exchange.entered = True
        asked = self._limits.admit(principal)
        if asked is not None:
            await exchange.unless_gone(asked)
        asked = self._limits.reserve(principal)
        if asked is not None:
            await exchange.unless_gone(asked)
        exchange.reserved = True

    async def read(self, exchange: Exchange) -> None:
        """Reads the body once, within the caller's limits, and the fields we act on; of a form only its beginning."""
        headers, upload = exchange.headers, exchange.operation.upload
        most = self._max_upload_bytes if upload else exchange.known_principal().limits.max_body_bytes
        most = most or self._max_body_bytes
        declared = headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > most:
            raise BodyTooLarge(f"The body has {int(declared)} bytes; {most} are allowed.")
        self._check_room(exchange, declared)
        began = self._loop.time()
        if upload:
            exchange.due = began + patience_s(headers, stream=False, most_s=self._max_request_s)
            self._deadlines.add(exchange)
            exchange.held_bytes += self._room.hold(exchange.known_principal(), _FORM_BYTES)
            await read_form(exchange, most, self._body_timeout_s)
            return
        check_content_type(headers)
        exchange.due = began + self._body_timeout_s
        self._deadlines.add(exchange)
        exchange.body = await receive_body(exchange, most, self._room)
        skim = Skim(exchange.body) if len(exchange.body) < MAX_INLINE_BYTES else None
        if skim is None or skim.is_dense():
            await self._inspect(exchange, began)
        else:
            exchange.request, exchange.skim = read_request(exchange.body, skim), skim
        assert exchange.request is not None  # noqa: S101
        exchange.stream = exchange.operation.generates and bool(exchange.request.stream)
        exchange.due = began + patience_s(headers, stream=exchange.stream, most_s=self._max_request_s)
        self._deadlines.hasten(exchange.due)
        exchange.watch()

    async def _inspect(self, exchange: Exchange, began: float) -> None:
        """Everything that is looked for in a large body, in another process, until the client disconnects or the deadline."""
        assert exchange.policy is not None  # noqa: S101 - authentication has set it
        exchange.due = began + patience_s(exchange.headers, stream=True, most_s=self._max_request_s)
        self._deadlines.hasten(exchange.due)
        exchange.watch()
        principal = exchange.known_principal()
        found = exchange.inspection = await self._screener.inspect(exchange.policy, exchange.body, principal)
        exchange.request, exchange.inline_media = found.request, found.inline_media

    def _check_room(self, exchange: Exchange, declared: bytes | None) -> None:
        """Refuses a body before it is read, where it says how large it is; a form is not held whole."""
        if declared is not None and declared.isdigit() and not exchange.operation.upload:
            self._room.check(exchange.known_principal(), int(declared))

    def admit(self, exchange: Exchange) -> None:
        """Model access, then fields by which a caller would act beyond his own request."""
        principal, request, policy = exchange.known_principal(), exchange.request, exchange.policy
        assert request is not None and policy is not None  # noqa: S101
        exchange.model = exchange.snapshot.model_for(principal, request.model)
        exchange.admitted = True
        inspection = exchange.inspection
        if inspection is not None and inspection.not_allowed is not None:
            raise inspection.not_allowed
        if request.uses_rare_fields:
            if inspection is None:
                check_fields(policy, request)
            if exchange.model.preset is not None:
                check_preset(request)
        if exchange.upload is None and inspection is None:
            assert exchange.skim is not None  # noqa: S101 - `read` has looked
            check_media(policy, exchange.body, exchange.skim)
            exchange.inline_media, exchange.skim = exchange.skim.may_hold(b"data:"), None

    async def screen_input(self, exchange: Exchange) -> None:
        """The policy's guardrails on what the caller sends: pass, mask or refuse."""
        policy = exchange.policy
        if policy is None or not policy.inputs or exchange.upload is not None:  # a form is screened as it passes
            return
        span = None
        if exchange.span is not None:
            span = self._tracing.start(names.SPAN_SCREEN_INPUT, exchange.span)
        try:
            if (found := exchange.inspection) is not None:
                if found.refused is not None:
                    raise found.refused
                exchange.body, exchange.verdicts = found.body, found.verdicts
            else:
                principal = exchange.known_principal()
                exchange.body, exchange.verdicts = await self._screener.screen(
                    "request", policy, exchange.body, principal
                )
        except Refused as error:
            exchange.verdicts = list(error.verdicts)
            raise
        finally:
            if span is not None:
                span.set_attribute(names.FINDINGS, sum(verdict.findings for verdict in exchange.verdicts))
                span.end()

    async def augment(self, exchange: Exchange) -> None:
        """A preset's prompt and passages from its documents, found with the caller's own rights."""
        preset = exchange.known_model().preset
        if preset is None:
            return
        if exchange.inspection is not None and exchange.inspection.tokens > _MAX_PRESET_TOKENS:
            raise InvalidRequest(
                f"A request to a preset may hold some {_MAX_PRESET_TOKENS} JSON values. Send less at once.",
                code="request_too_complex",
            )
        with self._tracing.child(names.SPAN_RETRIEVE, exchange.span, SpanKind.CLIENT) as span:
            trace = exchange.trace if span is None else exchange.trace_lines(traceparent(span))
            caller = caller_for(exchange.known_principal(), exchange.request_id, exchange.delegated)
            await self._augmenter.augment(exchange, preset, caller, trace)
            if span is not None:
                span.set_attribute(names.PASSAGES, len(exchange.citations or ()))

    def prepare(self, exchange: Exchange) -> None:
        """What will really be sent."""
        prepare(exchange, exchange.known_model().upstream_model)

    def begin(self, exchange: Exchange) -> None:
        """Journals that a model server is about to work; from here on a crash leaves an `interrupted` row."""
        self._settlement.begin(exchange)

    async def dispatch(self, exchange: Exchange) -> None:
        """Selects a replica, sends the request, passes the answer back; another replica only before the answer begins."""
        await self._dispatcher.dispatch(exchange)

    async def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Tells the caller about `error`: as the answer, or as the last event of a stream that has begun."""
        # its frames would hold the body, and the exchange holds it: both would wait for the garbage collector
        error.__traceback__ = error.__cause__ = error.__context__ = None
        exchange.error = error
        exchange.outcome = _outcome_of(error)
        if isinstance(error, Refused):
            exchange.verdicts = list(error.verdicts)
        late = False
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._tell(exchange, error)
        except TimeoutError:
            exchange.outcome, late = Outcome.CANCELLED, True
        except (OSError, asyncio.CancelledError):
            exchange.outcome = Outcome.CANCELLED
            late = exchange.cut_by is not None and not exchange.call.gone
        if late:
            await exchange.abandon()

    @staticmethod
    async def _tell(exchange: Exchange, error: TidegateError) -> None:
        if exchange.call.gone:
            return
        dialect = exchange.operation.dialect
        if not exchange.call.started:
            status, headers, body = dialect.render(error)
            begin_answer(exchange, status, header_lines(headers), len(body))
            await send_last(exchange, body)
        elif not exchange.sent_last:
            await send_last(exchange, dialect.render_event(error) if exchange.stream else b"")
        elif exchange.cut_by is error:
            await exchange.abandon()  # all has been said, and is not taken

    def settle(self, exchange: Exchange) -> None:
        """Returns what was reserved and writes down what happened. Never awaits."""
        if exchange.settled:
            return
        exchange.settled = True
        self.inflight.discard(exchange)
        self._deadlines.remove(exchange)
        if exchange.reserved:
            self._limits.release(exchange.known_principal())
        if exchange.entered:
            self._room.leave(exchange.known_principal(), exchange.held_bytes)
        self._settlement.settle(exchange)


def _is_waiting(exchange: Exchange) -> int:
    return exchange.ttft_s is None


def _tokens_of(exchange: Exchange) -> int:
    """The prompt's as its usage row estimates it, and one for each piece that was streamed."""
    assert exchange.row is not None  # noqa: S101
    tokens: int = exchange.row["input_tokens"] + exchange.pieces
    return tokens


def _outcome_of(error: TidegateError) -> Outcome:
    match error:
        case ClientGone() | DeadlineExceeded():
            return Outcome.CANCELLED
        case Stopping():
            return Outcome.INTERRUPTED
        case ClientError():
            return Outcome.REFUSED
        case UpstreamRejected():
            return Outcome.UPSTREAM_REFUSED
        case UpstreamError():
            return Outcome.UPSTREAM_ERROR
        case _:
            return Outcome.ERROR
