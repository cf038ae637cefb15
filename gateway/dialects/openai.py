"""OpenAI's words: chat completions, completions, embeddings and what vLLM adds in the same style."""

from collections.abc import Sequence

from msgspec import UNSET

from gateway.backends.vllm import REFUSES_ALL
from gateway.citations import cite_stream
from gateway.dialects.refusals import client_status, error_in, shown_error
from gateway.exchange import Exchange
from guardrails.engine.streams import StreamScreen
from tidegate.errors import (
    TidegateError,
    UpstreamBroken,
    UpstreamError,
    UpstreamRejected,
    render,
    render_event,
)
from tidegate.types import Outcome, Usage, UsageSource
from tidegate.wire.openai import (
    UNREADABLE,
    Chunk,
    ChunkHead,
    WireUsage,
    decode_answer,
    decode_any,
    decode_chunk,
    decode_head,
)
from tidegate.wire.shape import EventShape, shape_of
from tidegate.wire.sse import DONE, data_of, encode_event, without_mark

_MANY_CHOICES = 2**31
_MOST_TOKENS = 2**40


class OpenAi:
    """See `Dialect`."""

    counts_on_request = True
    answer_kind = "answer"

    def render(self, error: TidegateError) -> tuple[int, list[tuple[str, str]], bytes]:
        """See `Dialect.render`."""
        return render(error)

    def render_event(self, error: TidegateError) -> bytes:
        """See `Dialect.render_event`."""
        return render_event(error)

    def open_stream(self, exchange: Exchange) -> "OpenAiStream":
        """See `Dialect.open_stream`."""
        return OpenAiStream(exchange)

    def read_answer(self, body: bytes) -> Usage | None:
        """See `Dialect.read_answer`."""
        try:
            answer = decode_answer(body)
        except UNREADABLE as error:
            raise UpstreamBroken("the model server's answer is not JSON of the expected form") from error
        return None if answer.usage is None else read_usage(answer.usage)


class Numbers(OpenAi):
    """Answers whose texts, if there are any, are the caller's own: embeddings, ranks, scores. The model has said nothing."""

    answer_kind = ""


class Plain(Numbers):
    """Answers for which no model was asked: tokens."""

    def read_answer(self, body: bytes) -> Usage | None:
        """See `Dialect.read_answer`."""
        super().read_answer(body)
        return Usage(source=UsageSource.COUNTED)


class Heard(OpenAi):
    """What was heard in a sound file: JSON, or plain text as the caller wishes."""

    answer_kind = "transcript"

    def read_answer(self, body: bytes) -> Usage | None:
        """See `Dialect.read_answer`."""
        return super().read_answer(body) if body.startswith(b"{") else None


class OpenAiStream:
    """See `Stream`: chunks until `[DONE]`."""

    __slots__ = ("_exchange", "_head", "_open", "_screen", "_shape", "cut", "done", "events")

    def __init__(self, exchange: Exchange) -> None:
        policy = exchange.policy
        choices = _choices_of(exchange) if policy and policy.outputs else 1
        self._exchange = exchange
        self._screen = StreamScreen(policy.outputs, choices) if policy and policy.outputs else None
        self._shape: EventShape | None = None
        self._head: ChunkHead | None = None
        self._open: set[int] | None = None
        """Choices that have begun and not ended; None until there is one."""
        self.events = 0
        """See `Stream.events`."""
        self.done = False
        self.cut = False

    def take(self, events: Sequence[bytes], out: list[bytes]) -> None:
        """See `Stream.take`: a run of usual events is looked at as one, everything else event by event."""
        at = 0
        while at < len(events) and not self.done:
            end, text = (at, None) if self._shape is None else self._shape.run_from(events, at)
            if text is not None and self._may_pass(text):
                self.events += end - at
                self._exchange.pieces += end - at
                out += events[at:end]
                at = end
                continue
            for event in events[at : max(end, at + 1)]:
                self._take(event, out)
                at += 1
                if self.done:
                    return

    def is_usual(self, event: bytes) -> bool:
        """Whether `event` is a plain piece of text like those before, and may go out at once; nearly all are."""
        text = None if self._shape is None else self._shape.text_of(event)
        if text is None or not self._may_pass(text):
            return False
        self._exchange.pieces += 1
        return True

    def _may_pass(self, text: str) -> bool:
        shape, screen = self._shape, self._screen
        return shape is not None and (screen is None or screen.pass_text(shape.index, shape.path, text))

    async def take_slowly(self, event: bytes, out: list[bytes]) -> None:
        """See `Stream.take_slowly`."""
        event, chunk = self._read(event, out)
        if chunk is not None and self._screen is not None:
            out += await self._screen.feed_slowly(event, chunk)
            self._end_if_cut(out)

    def _take(self, event: bytes, out: list[bytes]) -> None:
        if self.is_usual(event):
            self.events += 1
            out.append(event)
            return
        event, chunk = self._read(event, out)
        if chunk is not None and self._screen is not None:
            out += self._screen.feed(event, chunk)
            self._end_if_cut(out)

    def _read(self, event: bytes, out: list[bytes]) -> tuple[bytes, Chunk | None]:
        """Notes what `event` says. It is added to `out`, or else returned with its chunk for the guardrails to read."""
        exchange, screen = self._exchange, self._screen
        event = without_mark(event)
        data = data_of(event)
        if screen is not None and not screen.may_show_beside(event, data):
            event = encode_event(data.replace(b"\n", b" ")) if data else b":\n\n"
        if not data:
            out.append(event)  # a comment or keep-alive
            return event, None
        if data == b"[DONE]":
            self._check_complete()
            self.events += 1
            self._finish(out, event)
            return event, None
        try:
            chunk = decode_chunk(data)
        except UNREADABLE as error:
            raise UpstreamBroken("the model server sent an event that is not a chunk") from error
        if chunk.error is not UNSET:
            raise _error_event(exchange, data)
        self._note(chunk, data)
        self.events += 1
        if self._shape is None and len(chunk.choices) == 1:
            self._shape = shape_of(event, chunk)
        if not chunk.choices and chunk.usage is not None and not exchange.asked_for_usage:
            return event, None  # we asked for it, the caller did not
        if screen is None:
            out.append(event)
            return event, None
        return event, chunk

    def _end_if_cut(self, out: list[bytes]) -> None:
        if self._screen is not None and self._screen.ended:
            self.cut = True
            self._finish(out, DONE)

    def _note(self, chunk: Chunk, data: bytes) -> None:
        exchange = self._exchange
        if self._head is None and exchange.citations is not None:
            self._head = _head_of(data)
        if chunk.usage is not None:
            exchange.usage = read_usage(chunk.usage)
        for choice in chunk.choices:
            if self._open is None:
                self._open = set()
            self._open.add(choice.index)
            if choice.delta or choice.text:
                exchange.pieces += 1
            if choice.finish_reason is not None:
                exchange.finish_reason = choice.finish_reason
                self._open.discard(choice.index)

    def _check_complete(self) -> None:
        if self._open is None or self._open:
            raise UpstreamBroken("the model server ended its stream in mid-sentence", code="upstream_incomplete")

    def _finish(self, out: list[bytes], done: bytes) -> None:
        exchange, screen = self._exchange, self._screen
        exchange.outcome = Outcome.OK
        if screen is not None:
            out += screen.finish()
            exchange.note_filtered(screen.verdicts)
        if exchange.citations is not None:
            out.append(cite_stream(self._head or ChunkHead(), exchange.citations))
        out.append(done)
        self.done = True


def _choices_of(exchange: Exchange) -> int:
    """How many choices a stream will have: `n` for each prompt."""
    request = exchange.request
    if request is None:
        return 1
    choices = request.n or 1
    if exchange.inspection is not None and exchange.operation.name == "text_completion":
        return _MANY_CHOICES  # of a large body the prompts are not kept
    prompts = bytes(request.prompt) if request.prompt is not UNSET else b""
    return choices * len(decode_any(prompts)) if prompts[:1] == b"[" else choices


def read_usage(usage: WireUsage) -> Usage:
    """The model server's own numbers."""
    details = usage.prompt_tokens_details
    return Usage(
        plausible((usage.total_tokens if usage.prompt_tokens is None else usage.prompt_tokens) or 0),
        plausible(usage.completion_tokens or 0),
        plausible((details.cached_tokens or 0) if details else 0),
        UsageSource.REPORTED,
    )


def plausible(tokens: int) -> int:
    """Within what a usage row can hold: one absurd number must not stop the journal."""
    return tokens if 0 <= tokens <= _MOST_TOKENS else max(0, min(tokens, _MOST_TOKENS))


def _head_of(data: bytes) -> ChunkHead:
    try:
        return decode_head(data)
    except UNREADABLE:
        return ChunkHead()


def _error_event(exchange: Exchange, data: bytes) -> UpstreamError:
    """An error in the middle of a stream: the caller's fault if its code says so, else the model server's."""
    found = error_in(data, 500)
    code = found.get("code")
    if isinstance(code, int) and 400 <= code < 500 and code not in REFUSES_ALL:
        return UpstreamRejected(client_status(code), shown_error(exchange, found))
    return UpstreamError("the model server reported an error in the middle of its stream")
