"""Carries an answer from the model server to the caller: whole, or event by event.

Bytes pass as they came. The relay reads of them only usage, finish reason and errors, and shows texts to the guardrails.
"""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.backends.connection import Connection
from gateway.backends.vllm import retry_after_s
from gateway.citations import cite_answer
from gateway.dialects.refusals import client_status, read_refusal
from gateway.exchange import Exchange, Stream
from guardrails.offload.screener import Screener
from tidegate.config.settings import RelaySettings
from tidegate.errors import UpstreamBroken, UpstreamError, UpstreamRejected
from tidegate.types import Outcome, Usage, UsageSource
from tidegate.wire.sse import Splitter

_STREAM_LINES = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
_SUCCESSFUL = frozenset({200, 201, 202, 203})
_JSON, _TEXT = b"application/json", b"text/plain; charset=utf-8"
_JSON_TYPE = re.compile(rb"application/json(?:; ?charset=utf-8)?", re.IGNORECASE)
_TEXT_TYPE = re.compile(rb"(?:text|application)/[A-Za-z.+-]{1,40}(?:; ?charset=utf-8)?", re.IGNORECASE)
_DURATION = re.compile(rb"[0-9.]{1,11}")
_WAITING = b": waiting\n\n"
_MANY_BYTES, _FEW_BYTES = 16_384, 4_096
"""Of events that came together: more than many are looked at a few at a time."""
_TAIL_WAIT_S = 0.25  # for the end of a finished answer, so that the connection can be used again


async def relay_answer(exchange: Exchange, connection: Connection, settings: RelaySettings, screener: Screener) -> None:
    """Passes on the answer whose head has arrived.

    Raises:
        UpstreamError: it was cut, malformed, too large or too slow.
    """
    streamed = connection.headers.get(b"content-type", b"").startswith(b"text/event-stream")
    if 400 <= connection.status < 600:
        await _relay_error(exchange, connection, settings)
    elif connection.status not in _SUCCESSFUL:
        raise UpstreamBroken(f"the model server returned the unexpected status {connection.status}")
    elif streamed and (exchange.stream or exchange.upload is not None):
        exchange.stream = True  # a form may say so after its file
        await _relay_stream(exchange, connection, settings)
    else:
        await _relay_whole(exchange, connection, settings, screener)


async def comfort(exchange: Exchange) -> None:
    """Tells the caller of a silent stream that it is being worked on: routers cut what is silent for long."""
    exchange.quiet_since = asyncio.get_running_loop().time()
    await _pass_on(exchange, _WAITING, event=False)


def begin_answer(exchange: Exchange, status: int, lines: bytes, length: int | None = None) -> None:
    """Begins the answer with header `lines` and the ids that every answer carries; `length` is None for a stream."""
    exchange.status = status
    ids = b"x-request-id: %s\r\nx-tidegate-request-id: %s\r\n" % (exchange.public_id, exchange.request_id.encode())
    exchange.call.start(status, lines + ids, length)


async def send_last(exchange: Exchange, body: bytes) -> None:
    """Sends the last bytes of the answer; from here on a hang-up no longer matters."""
    exchange.sent_last = True
    if exchange.call.blocked:
        await exchange.call.writable()
    exchange.call.end(body)


async def _relay_whole(exchange: Exchange, connection: Connection, settings: RelaySettings, screener: Screener) -> None:
    body = await connection.read_all(settings.max_answer_bytes)
    if exchange.call.started:
        raise UpstreamBroken("the model server sent a whole answer where a stream was asked for")
    dialect = exchange.operation.dialect
    exchange.usage = dialect.read_answer(body)
    exchange.answer_bytes = len(body)
    exchange.outcome = Outcome.OK
    if exchange.policy is not None and exchange.policy.outputs and dialect.answer_kind:
        principal = exchange.known_principal()
        body, verdicts = await screener.screen(dialect.answer_kind, exchange.policy, body, principal)
        exchange.note_filtered(verdicts)
    if exchange.citations is not None:
        body = cite_answer(body, exchange.citations)
    exchange.mark_first_byte()
    begin_answer(exchange, connection.status, _lines(connection, exchange.upload is not None), len(body))
    await send_last(exchange, body)


async def _relay_error(exchange: Exchange, connection: Connection, settings: RelaySettings) -> None:
    """A refusal of what the caller sent is the caller's to read: as it came, or in OpenAI's shape where it has another."""
    body = await connection.read_all(settings.max_answer_bytes)
    exchange.usage = Usage(source=UsageSource.COUNTED)
    status, (error, may_pass) = client_status(connection.status), read_refusal(exchange, body, connection.status)
    if exchange.call.started or not may_pass:
        raise UpstreamRejected(status, error)
    exchange.error = UpstreamRejected(status, error)
    exchange.outcome = Outcome.UPSTREAM_REFUSED
    begin_answer(exchange, status, _lines(connection, False) + b"x-should-retry: false\r\n", len(body))
    await send_last(exchange, body)


async def _relay_stream(exchange: Exchange, connection: Connection, settings: RelaySettings) -> None:
    pick, splitter = exchange.pick, Splitter(settings.max_event_bytes)
    assert pick is not None  # noqa: S101
    stream = exchange.operation.dialect.open_stream(exchange)

    def pass_frame(frame: bytes, event: bytes) -> bool:
        if splitter.rest or exchange.call.blocked or not stream.is_usual(event):
            return False
        exchange.call.write_frame(frame)
        pick.replica.progress_at = connection.moved()
        return True

    while pieces := await connection.read_pieces():
        out: list[bytes] = []
        events, whole = stream.events, splitter.feed(pieces)
        few = sum(map(len, whole)) <= _MANY_BYTES and (not whole or max(map(len, whole)) <= _FEW_BYTES)
        failure = _take(stream, whole, out) if few else await _take_slowly(stream, whole, out)
        good = b"".join(out)
        pieces, out = [], []  # a slow reader may take long now, and nothing should be held twice meanwhile
        if stream.done:
            await _pass_on(exchange, good, last=True)
            await _await_end(connection, wanted=not stream.cut)
            return
        if good:
            await _pass_on(exchange, good, event=stream.events > 0)
        if stream.events > events:
            pick.replica.progress_at = connection.moved()
        if failure is not None:
            raise failure
        splitter.check()
        if exchange.call.chunked and exchange.ttft_s is not None:
            connection.on_frame = pass_frame
    raise UpstreamBroken(
        "the model server ended its stream without saying that it is complete", code="upstream_incomplete"
    )


def _take(stream: Stream, events: Sequence[bytes], out: list[bytes]) -> UpstreamError | None:
    """Adds to `out` what may go out now; what is wrong with `events`, for what was good is passed on first."""
    try:
        stream.take(events, out)
    except UpstreamError as error:
        return error
    return None


async def _take_slowly(stream: Stream, events: Sequence[bytes], out: list[bytes]) -> UpstreamError | None:
    """As `_take`, in pieces small enough that other requests do not wait."""
    at = 0
    try:
        while at < len(events) and not stream.done:
            end, size = at + 1, len(events[at])
            if size > _FEW_BYTES:
                await stream.take_slowly(events[at], out)
            else:
                while end < len(events) and (size := size + len(events[end])) <= _FEW_BYTES:
                    end += 1
                stream.take(events[at:end], out)
                await asyncio.sleep(0)
            at = end
    except UpstreamError as error:
        return error
    return None


async def _pass_on(exchange: Exchange, data: bytes, *, event: bool = True, last: bool = False) -> None:
    """Passes on whole events, or only comments where `event` is false."""
    call = exchange.call
    if not call.started:
        begin_answer(exchange, 200, _STREAM_LINES)
    if event:
        exchange.mark_first_byte()
    exchange.sent_last = last
    if call.blocked:
        await call.writable()
    if last:
        call.end(data)
    else:
        call.write(data)


async def _await_end(connection: Connection, *, wanted: bool) -> None:
    """Waits briefly for the end of an answer already passed on, so that its connection can be kept."""
    if connection.complete or not wanted:
        return
    try:
        async with asyncio.timeout(_TAIL_WAIT_S):
            await connection.read()
    except (TimeoutError, UpstreamError):
        connection.close()


def _lines(connection: Connection, may_be_text: bool) -> bytes:
    """The header lines that reach the client, each in a form that clients can read."""
    headers = connection.headers
    kind = headers.get(b"content-type", b"")
    if may_be_text:
        kind = kind if _TEXT_TYPE.fullmatch(kind) else _TEXT
    elif kind != _JSON and not _JSON_TYPE.fullmatch(kind):
        kind = _JSON
    lines = b"content-type: %s\r\n" % kind
    pause = headers.get(b"retry-after")
    if pause is not None and (pause_s := retry_after_s(pause, datetime.now(UTC))) is not None:
        lines += b"retry-after: %d\r\n" % max(1, int(pause_s + 0.999))
    duration = headers.get(b"openai-processing-ms")
    if duration is not None and _DURATION.fullmatch(duration):
        lines += b"openai-processing-ms: %s\r\n" % duration
    return lines
