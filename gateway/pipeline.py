"""The stages of a request, one verb each, in the order in which `run` calls them.

Streaming and non-streaming take the same stages. Whatever happens, `settle` runs last and runs once.
"""

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import UNSET
from opentelemetry.trace import SpanKind

from gateway.auth.api_keys import authenticate
from gateway.deadlines import Deadlines
from gateway.exchange import Exchange, Message
from gateway.limits.memory import MemoryLimits
from gateway.relay import relay_answer, send_last, send_start
from gateway.routing.select import Selector
from gateway.settle import Settlement
from gateway.snapshot import ServedModel
from guardrails.engine.policy import Policy, screen_off_loop
from guardrails.engine.requests import Refused, check_media, screen_request
from tidegate.config.resources import GUARDED_FIELDS
from tidegate.config.settings import Settings
from tidegate.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientError,
    ClientGone,
    InvalidRequest,
    OperatorError,
    TidegateError,
    UnsupportedMediaType,
    UpstreamBroken,
    UpstreamError,
    UpstreamUnavailable,
    render,
    render_event,
)
from tidegate.store.keys import Pepper
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing, fail, parse_traceparent, traceparent, unsampled_traceparent
from tidegate.types import Outcome
from tidegate.wire.openai import GenerateRequest, decode_fields, decode_request, encode


class Pipeline:
    """Takes a request from its headers to its usage row. Built once by `app.py`; holds no request's state."""

    def __init__(  # noqa: PLR0913 - the composition root passes everything in
        self,
        settings: Settings,
        pepper: Pepper,
        *,
        limits: MemoryLimits,
        selector: Selector,
        settlement: Settlement,
        tracing: Tracing,
        metrics: Metrics,
        log: JsonLog,
    ) -> None:
        self._settings = settings
        self._pepper = pepper
        self._limits = limits
        self._selector = selector
        self._settlement = settlement
        self._tracing = tracing
        self._metrics = metrics
        self._log = log
        metrics.watch(names.INFLIGHT, lambda: len(self.inflight))
        self._deadlines = Deadlines()
        self.inflight: set[Exchange] = set()

    async def run(self, exchange: Exchange) -> None:
        """Runs every stage; answers the caller, also about errors, unless the caller has gone."""
        exchange.task = asyncio.current_task()
        self.inflight.add(exchange)
        try:
            self.trace(exchange)
            self.authenticate(exchange)
            await self.read(exchange)
            self.admit(exchange)
            await self.screen_input(exchange)
            self.reserve(exchange)
            self.begin(exchange)
            await self.dispatch(exchange)
        except TidegateError as error:
            await self.refuse(exchange, error)
        except RecursionError:
            await self.refuse(exchange, InvalidRequest("The body is nested too deeply."))
        except asyncio.CancelledError:
            exchange.outcome, exchange.error = Outcome.CANCELLED, ClientGone("the caller hung up")
            if exchange.task is None or not (exchange.client_gone or exchange.body_late):
                raise  # the server is stopping
            exchange.task.uncancel()
            if exchange.body_late:
                await self.refuse(exchange, BodyTimeout("The body did not arrive in time."))
        except Exception as error:  # noqa: BLE001 - a defect of ours must still be answered, and settled
            self._log.write(
                "error", "defect", request_id=exchange.request_id, error=type(error).__name__, where=_where(error)
            )
            await self.refuse(
                exchange, TidegateError("The gateway failed. The incident is logged under this request id.")
            )
        finally:
            self.settle(exchange)

    def trace(self, exchange: Exchange) -> None:
        """Joins the caller's trace or begins one."""
        incoming = exchange.headers.get(b"traceparent")
        parent = None if incoming is None else parse_traceparent(incoming)
        if self._tracing.samples(parent):
            exchange.span = self._tracing.start(exchange.operation, parent, SpanKind.SERVER)
            exchange.trace_id = f"{exchange.span.get_span_context().trace_id:032x}"
            return
        value = incoming if incoming is not None and parent is not None else unsampled_traceparent()
        exchange.trace_id = value[3:35].decode()
        exchange.trace = _trace_lines(value, exchange)

    def authenticate(self, exchange: Exchange) -> None:
        """Who is calling, from the headers alone."""
        header = exchange.headers.get(b"authorization")
        snapshot = exchange.snapshot
        exchange.principal = authenticate(header, snapshot.keys, self._pepper)
        exchange.policy = snapshot.policies[exchange.principal.policy]

    async def read(self, exchange: Exchange) -> None:
        """Reads the body once, within the caller's limit, and the fields we act on."""
        headers = exchange.headers
        content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != b"application/json" or b"content-encoding" in headers:
            raise UnsupportedMediaType("The body must be JSON: send `content-type: application/json`, uncompressed.")
        most = exchange.known_principal().limits.max_body_bytes or self._settings.gateway.max_body_bytes
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise BodyTooLarge(f"The body has {int(declared)} bytes; {most} are allowed.")
        exchange.due = asyncio.get_running_loop().time() + self._settings.gateway.body_timeout_s
        self._deadlines.add(exchange)
        try:
            exchange.body = await _read_body(exchange, most)
        finally:
            self._deadlines.remove(exchange)
        try:
            exchange.request = decode_request(exchange.body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"The body is not a valid request: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest("The body is not valid JSON.") from error

    def admit(self, exchange: Exchange) -> None:
        """Model access, then the request rate, then fields by which a caller would act beyond his own request."""
        principal, request, policy = exchange.known_principal(), exchange.request, exchange.policy
        assert request is not None and policy is not None  # noqa: S101
        exchange.model = exchange.snapshot.model_for(principal, request.model)
        self._limits.admit(principal)
        exchange.admitted = True
        exchange.stream = bool(request.stream)
        if request.uses_guarded_fields:
            _check_guarded_fields(request, policy)
        check_media(policy, exchange.body)

    async def screen_input(self, exchange: Exchange) -> None:
        """The policy's guardrails on what the caller sends: pass, mask or refuse."""
        policy = exchange.policy
        if policy is None or not policy.inputs:
            return
        span = None
        if exchange.span is not None:
            span = self._tracing.start(names.SPAN_SCREEN_INPUT, exchange.span)
        try:
            _refuse_token_prompt(exchange.request)
            exchange.body, exchange.verdicts = await screen_off_loop(screen_request, policy, exchange.body)
        except Refused as error:
            exchange.verdicts = list(error.verdicts)
            raise
        finally:
            if span is not None:
                span.set_attribute(names.FINDINGS, sum(verdict.findings for verdict in exchange.verdicts))
                span.end()

    def reserve(self, exchange: Exchange) -> None:
        """A concurrency slot, for what will really be sent."""
        self._limits.reserve(exchange.known_principal())
        exchange.reserved = True
        _prepare_body(exchange)

    def begin(self, exchange: Exchange) -> None:
        """Journals that a model server is about to work; from here on a crash leaves an `interrupted` row."""
        try:
            self._settlement.begin(exchange)
        except OSError as error:
            raise OperatorError("The usage journal cannot be written; requests are refused until it can.") from error
        exchange.watcher = asyncio.ensure_future(exchange.receive())
        exchange.watcher.add_done_callback(_hang_up(exchange))

    async def dispatch(self, exchange: Exchange) -> None:
        """Selects a replica, sends the request, passes the answer back; another replica only before the answer begins."""
        model = exchange.known_model()
        while True:
            exchange.pick = self._selector.pick(model.replicas, frozenset(exchange.tried))
            if exchange.pick is None:
                raise UpstreamUnavailable(f"No replica of {model.name!r} could take the request. Try again.")
            try:
                await self._attempt(exchange, model)
            except (UpstreamUnavailable, UpstreamBroken) as error:
                if exchange.headers_sent:
                    raise
                exchange.tried = (*exchange.tried, exchange.pick.replica.url)
                if len(exchange.tried) == len(model.replicas):
                    raise
                self._metrics.count(names.RETRIES, model.name, error.error_code or error.type)
            else:
                return

    async def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Tells the caller about `error`: as the answer, or as the last event of a stream that has begun."""
        exchange.error = error
        exchange.outcome = _outcome_of(error)
        try:
            if exchange.headers_sent:
                if not exchange.sent_last:
                    await send_last(exchange, render_event(error) if exchange.stream else b"")
                return
            status, headers, body = render(error)
            await send_start(exchange, status, [(name.encode(), value.encode()) for name, value in headers])
            await send_last(exchange, body)
        except (OSError, asyncio.CancelledError):
            exchange.outcome = Outcome.CANCELLED

    def settle(self, exchange: Exchange) -> None:
        """Returns what was reserved and writes down what happened. Never awaits."""
        if exchange.settled:
            return
        exchange.settled = True
        self.inflight.discard(exchange)
        if exchange.watcher is not None:
            exchange.watcher.cancel()
        if exchange.reserved:
            self._limits.release(exchange.known_principal())
        self._settlement.settle(exchange)
        exchange.task = exchange.watcher = None  # no cycle for the garbage collector

    async def _attempt(self, exchange: Exchange, model: ServedModel) -> None:
        """One replica, once; its connection goes back whatever happens."""
        pick = exchange.pick
        assert pick is not None  # noqa: S101
        server = model.servers[pick.replica.url]
        span, connection, failed = None, None, True
        if exchange.span is not None:
            span = self._tracing.start(names.SPAN_DISPATCH, exchange.span, SpanKind.CLIENT)
            span.set_attribute(names.SERVER_ADDRESS, pick.replica.url)
            span.set_attribute(names.PICK_REASON, pick.reason)
            exchange.trace = _trace_lines(traceparent(span), exchange)
        self._selector.began(pick.replica)
        try:
            connection = await server.post(
                exchange.path, exchange.body, request_id=exchange.request_id, trace=exchange.trace
            )
            await relay_answer(exchange, connection, server.settings)
            failed = False
        except asyncio.CancelledError:
            failed = False  # the caller's doing
            raise
        except UpstreamError as error:
            if span is not None:
                fail(span, error.error_code or error.type)
            raise
        finally:
            self._selector.ended(pick.replica, failed=failed)
            if connection is not None:
                server.pool.give_back(connection)
            if span is not None:
                span.end()


def _check_guarded_fields(request: GenerateRequest, policy: Policy) -> None:
    for name in sorted(GUARDED_FIELDS - policy.allow_request_fields):
        if getattr(request, name) is not UNSET:
            raise InvalidRequest(
                f"The field {name!r} is not open to callers under this project's policy. Leave it out.",
                param=name,
                code="field_not_allowed",
            )


async def _read_body(exchange: Exchange, most: int) -> bytes:
    message = await exchange.receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        first: bytes = message.get("body", b"")
        if len(first) > most:
            raise BodyTooLarge(f"The body is larger than the {most} bytes allowed.")
        return first
    parts, size = [], 0
    while message["type"] == "http.request":
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > most:
            raise BodyTooLarge(f"The body is larger than the {most} bytes allowed.")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await exchange.receive()
    raise ClientGone("the caller hung up before the body was complete")


def _prepare_body(exchange: Exchange) -> None:
    """Changes in the body only what must change: usage is asked for, and the model's name may differ behind the door."""
    request, model = exchange.request, exchange.known_model()
    assert request is not None  # noqa: S101
    options = request.stream_options
    exchange.asked_for_usage = bool(options and options.include_usage)
    ask = exchange.stream and not exchange.asked_for_usage
    rename = model.upstream_model != request.model
    if not ask and not rename:
        return
    if not rename and b'"stream_options"' not in exchange.body:
        exchange.body = b'{"stream_options":{"include_usage":true},' + exchange.body.lstrip()[1:]
        return
    fields = decode_fields(exchange.body)
    if rename:
        fields["model"] = msgspec.Raw(encode(model.upstream_model))
    if ask:
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    exchange.body = encode(fields)


def _refuse_token_prompt(request: GenerateRequest | None) -> None:
    """A prompt of token ids cannot be read by a guardrail, so it does not pass one."""
    prompt = request.prompt if request is not None else UNSET
    if isinstance(prompt, msgspec.Raw) and bytes(prompt).lstrip(b" \t\r\n[")[:1].isdigit():
        raise InvalidRequest("Send the prompt as text: token ids cannot be screened.", param="prompt")


def _hang_up(exchange: Exchange) -> Callable[[asyncio.Future[Message]], None]:
    def on_message(future: asyncio.Future[Message]) -> None:
        if future.cancelled() or exchange.settled or exchange.sent_last or exchange.task is None:
            return
        exchange.client_gone = True
        exchange.task.cancel()

    return on_message


def _trace_lines(value: bytes, exchange: Exchange) -> bytes:
    lines = b"traceparent: %s\r\n" % value
    state = exchange.headers.get(b"tracestate")
    return lines + b"tracestate: %s\r\n" % state if state and len(state) <= 512 else lines


def _outcome_of(error: TidegateError) -> Outcome:
    match error:
        case ClientGone():
            return Outcome.CANCELLED
        case ClientError():
            return Outcome.REFUSED
        case UpstreamError():
            return Outcome.UPSTREAM_ERROR
        case _:
            return Outcome.ERROR


def _where(error: BaseException) -> str:
    """File and line of a defect, without values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "?"
