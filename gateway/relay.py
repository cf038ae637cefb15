"""Carries an answer from the model server to the caller: whole, or event by event.

Bytes pass as they came. The relay reads of them only usage, finish reason and errors, and shows texts to the guardrails.
"""

import asyncio

from msgspec import UNSET, DecodeError

from gateway.backends.connection import Connection
from gateway.backends.vllm import ANSWER_HEADERS
from gateway.exchange import Exchange
from guardrails.engine.answers import screen_answer
from guardrails.engine.policy import screen_off_loop
from guardrails.engine.streams import StreamScreen
from tidegate.config.settings import RelaySettings
from tidegate.errors import UpstreamBroken, UpstreamError
from tidegate.types import Outcome, Usage, UsageSource
from tidegate.wire.openai import Chunk, WireUsage, decode_answer, decode_any, decode_chunk
from tidegate.wire.shape import EventShape, shape_of
from tidegate.wire.sse import DONE, Splitter, data_of

_MOST_TOKENS = 2**40
_TAIL_WAIT_S = 0.25  # for the end of a finished answer, so that the connection can be used again


async def relay_answer(exchange: Exchange, connection: Connection, settings: RelaySettings) -> None:
    """Passes on the answer whose head has arrived.

    Raises:
        UpstreamError: it was cut, malformed, too large or too slow.
    """
    headers = dict(connection.headers)
    streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
    if connection.status >= 400:
        await _relay_error(exchange, connection, settings)
    elif exchange.stream and streamed:
        await _relay_stream(exchange, connection, settings)
    else:
        await _relay_whole(exchange, connection, settings)


async def send_start(exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Sends status and headers, with the ids that every answer carries."""
    exchange.status = status
    exchange.headers_sent = True
    ids = [(b"x-request-id", exchange.public_id), (b"x-tidegate-request-id", exchange.request_id.encode())]
    await exchange.send({"type": "http.response.start", "status": status, "headers": [*headers, *ids]})


async def send_last(exchange: Exchange, body: bytes) -> None:
    """Sends the last bytes of the answer; from here on a hang-up no longer matters."""
    exchange.sent_last = True
    await exchange.send({"type": "http.response.body", "body": body, "more_body": False})


async def _relay_whole(exchange: Exchange, connection: Connection, settings: RelaySettings) -> None:
    body = await connection.read_all(settings.max_answer_bytes)
    try:
        answer = decode_answer(body)
    except DecodeError as error:
        raise UpstreamBroken("the model server's answer is not JSON of the expected form") from error
    if answer.usage is not None:
        exchange.usage = read_usage(answer.usage)
    exchange.answer_bytes = len(body)
    exchange.outcome = Outcome.OK
    if exchange.policy is not None and exchange.policy.outputs:
        body, verdicts = await screen_off_loop(screen_answer, exchange.policy, body)
        exchange.note_filtered(verdicts)
    exchange.mark_first_byte()
    await send_start(exchange, connection.status, _headers(connection, len(body)))
    await send_last(exchange, body)


async def _relay_error(exchange: Exchange, connection: Connection, settings: RelaySettings) -> None:
    """A 4xx is the caller's and is passed on; 401, 403 and 5xx are between us and the model server."""
    body = await connection.read_all(settings.max_answer_bytes)
    if connection.status >= 500 or connection.status in (401, 403):
        raise UpstreamError(f"the model server answered {connection.status}")
    if not _is_error_object(body):
        raise UpstreamError(f"the model server answered {connection.status} without saying why")
    exchange.outcome = Outcome.UPSTREAM_REFUSED
    again = b"true" if connection.status == 429 else b"false"
    exchange.usage = Usage(source=UsageSource.COUNTED)
    await send_start(exchange, connection.status, [*_headers(connection, len(body)), (b"x-should-retry", again)])
    await send_last(exchange, body)


async def _relay_stream(exchange: Exchange, connection: Connection, settings: RelaySettings) -> None:
    stream = _Stream(exchange)
    splitter = Splitter(settings.max_event_bytes)
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send_start(exchange, 200, [*headers, (b"x-accel-buffering", b"no")])
    while data := await connection.read():
        if not splitter.rest and stream.is_usual(data):  # one event, as it comes when the model server takes its time
            exchange.mark_first_byte()
            await exchange.send({"type": "http.response.body", "body": data, "more_body": True})
            continue
        out: list[bytes] = []
        try:
            for event in splitter.feed(data):
                stream.take(event, out)
                if stream.done:
                    exchange.mark_first_byte()
                    await send_last(exchange, b"".join(out))
                    await _await_end(connection, wanted=not stream.cut)
                    return
        finally:
            if out and not stream.done:  # also before an error: what was good is passed on first
                exchange.mark_first_byte()
                await exchange.send({"type": "http.response.body", "body": b"".join(out), "more_body": True})
        splitter.check()
    raise UpstreamBroken("the model server ended its stream without saying that it is complete")


async def _await_end(connection: Connection, *, wanted: bool) -> None:
    """Waits briefly for the end of an answer already passed on, so that its connection can be kept."""
    if connection.complete or not wanted:
        return
    try:
        async with asyncio.timeout(_TAIL_WAIT_S):
            await connection.read()
    except (TimeoutError, UpstreamError):
        connection.close()


class _Stream:
    """One stream's events on their way; `done` after `[DONE]`, `cut` if a guardrail ended it before."""

    __slots__ = ("_exchange", "_screen", "_shape", "cut", "done")

    def __init__(self, exchange: Exchange) -> None:
        policy, request = exchange.policy, exchange.request
        choices = (request.n if request else 1) or 1
        self._exchange = exchange
        self._screen = StreamScreen(policy.outputs, choices) if policy and policy.outputs else None
        self._shape: EventShape | None = None
        self.done = False
        self.cut = False

    def take(self, event: bytes, out: list[bytes]) -> None:
        """Adds to `out` what may go to the caller now that `event` is here.

        Raises:
            UpstreamBroken: an event that cannot be read.
        """
        if self.is_usual(event):
            out.append(event)
            return
        data = data_of(event)
        if not data:
            out.append(event)  # a comment or keep-alive
            return
        exchange, screen = self._exchange, self._screen
        if data == b"[DONE]":
            self._finish(out, event)
            return
        try:
            chunk = decode_chunk(data)
        except DecodeError as error:
            raise UpstreamBroken("the model server sent an event that is not a chunk") from error
        if chunk.error is not UNSET:
            raise UpstreamError("the model server reported an error in the middle of its stream")
        self._note(chunk)
        if self._shape is None and len(chunk.choices) == 1:
            self._shape = shape_of(event, chunk)
        if not chunk.choices and chunk.usage is not None and not exchange.asked_for_usage:
            return  # we asked for it, the caller did not
        if screen is None:
            out.append(event)
            return
        out += screen.feed(event, chunk)
        if screen.ended:
            self.cut = True
            self._finish(out, DONE)

    def is_usual(self, event: bytes) -> bool:
        """Whether `event` is a plain piece of text like those before, and may go out at once; nearly all are."""
        shape, screen = self._shape, self._screen
        text = None if shape is None else shape.text_of(event)
        if shape is None or text is None:
            return False
        if screen is not None and not screen.pass_text(shape.index, shape.path, text):
            return False
        self._exchange.pieces += 1
        return True

    def _note(self, chunk: Chunk) -> None:
        exchange = self._exchange
        if chunk.usage is not None:
            exchange.usage = read_usage(chunk.usage)
        for choice in chunk.choices:
            if choice.delta or choice.text:
                exchange.pieces += 1
            if choice.finish_reason is not None:
                exchange.finish_reason = choice.finish_reason

    def _finish(self, out: list[bytes], done: bytes) -> None:
        exchange, screen = self._exchange, self._screen
        exchange.outcome = Outcome.OK
        if screen is not None:
            out += screen.finish()
            exchange.note_filtered(screen.verdicts)
        out.append(done)
        self.done = True


def read_usage(usage: WireUsage) -> Usage:
    """The model server's own numbers."""
    details = usage.prompt_tokens_details
    return Usage(
        input_tokens=_plausible(usage.prompt_tokens),
        output_tokens=_plausible(usage.completion_tokens or 0),
        cached_tokens=_plausible((details.cached_tokens or 0) if details else 0),
        source=UsageSource.REPORTED,
    )


def _plausible(tokens: int) -> int:
    """Within what a usage row can hold: one absurd number must not stop the journal."""
    return max(0, min(tokens, _MOST_TOKENS))


def _headers(connection: Connection, length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in connection.headers if name in ANSWER_HEADERS]
    return [*kept, (b"content-length", b"%d" % length)]


def _is_error_object(body: bytes) -> bool:
    try:
        answer = decode_any(body)
    except DecodeError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("error"), dict)
