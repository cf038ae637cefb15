"""Anthropic's words: `/v1/messages` and `/v1/messages/count_tokens`, which vLLM speaks beside OpenAI's."""

import json
from collections.abc import Sequence
from typing import Any

from gateway.dialects.openai import plausible
from gateway.dialects.refusals import plain_members, shown_error
from gateway.exchange import Exchange
from guardrails.engine.streams import StreamScreen
from tidegate.errors import TidegateError, UpstreamBroken, UpstreamError, UpstreamRejected, error_object, render
from tidegate.types import Outcome, Usage, UsageSource
from tidegate.wire.anthropic import MessageEvent, MessageUsage, decode_event, decode_message, encode_named_event
from tidegate.wire.openai import UNREADABLE, Chunk, ChunkChoice
from tidegate.wire.sse import data_of, without_mark

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Status to error type; source: https://docs.anthropic.com/en/api/errors."""
_CALLERS_FAULT = frozenset({"invalid_request_error", "BadRequestError", "not_found_error", "request_too_large"})

_EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    }
)


class Anthropic:
    """See `Dialect`."""

    counts_on_request = False
    answer_kind = "message"

    def render(self, error: TidegateError) -> tuple[int, list[tuple[str, str]], bytes]:
        """See `Dialect.render`."""
        status, headers, _ = render(error)
        return status, headers, json.dumps(_error(error)).encode()

    def render_event(self, error: TidegateError) -> bytes:
        """See `Dialect.render_event`."""
        return encode_named_event("error", _error(error))

    def open_stream(self, exchange: Exchange) -> "MessageStream":
        """See `Dialect.open_stream`."""
        return MessageStream(exchange)

    def read_answer(self, body: bytes) -> Usage | None:
        """See `Dialect.read_answer`."""
        try:
            answer = decode_message(body)
        except UNREADABLE as error:
            raise UpstreamBroken("the model server's answer is not JSON of the expected form") from error
        if answer.input_tokens is not None:
            return Usage(source=UsageSource.COUNTED)  # counted only: no model was asked
        return None if answer.usage is None else read_usage(answer.usage)


class MessageStream:
    """See `Stream`: events until `message_stop`."""

    __slots__ = ("_exchange", "_passed_block", "_screen", "_stop_reason", "cut", "done", "events")

    def __init__(self, exchange: Exchange) -> None:
        policy = exchange.policy
        self._exchange = exchange
        self._screen = (
            StreamScreen(policy.outputs, 1, last=self._refusal, without=_nothing) if policy and policy.outputs else None
        )
        self._passed_block: int | None = None
        """The content block that the caller has seen begin and not end."""
        self._stop_reason: str | None = None
        self.events = 0
        self.done = False
        self.cut = False

    def is_usual(self, event: bytes) -> bool:
        """See `Stream.is_usual`."""
        return False

    def take(self, events: Sequence[bytes], out: list[bytes]) -> None:
        """See `Stream.take`."""
        for event in events:
            self._take(event, out)
            if self.done:
                return

    async def take_slowly(self, event: bytes, out: list[bytes]) -> None:
        """See `Stream.take_slowly`."""
        event, chunk = self._read(event, out)
        if chunk is not None and self._screen is not None:
            self._pass_on(await self._screen.feed_slowly(event, chunk), out)

    def _take(self, event: bytes, out: list[bytes]) -> None:
        event, chunk = self._read(event, out)
        if chunk is not None and self._screen is not None:
            self._pass_on(self._screen.feed(event, chunk), out)

    def _read(self, event: bytes, out: list[bytes]) -> tuple[bytes, Chunk | None]:
        """Notes what `event` says. It is added to `out`, or else returned with its texts for the guardrails to read."""
        event = without_mark(event)
        data = data_of(event)
        if not data:
            out.append(event if self._may_show(event, data) else b":\n\n")
            return event, None
        try:
            found = decode_event(data)
        except UNREADABLE as error:
            raise UpstreamBroken("the model server sent an event that is not of a message") from error
        if found.type == "error":
            raise _error_event(self._exchange, found)
        if not self._may_show(event, data):
            event = b"event: %s\ndata: %s\n\n" % (_name_of(found), data.replace(b"\n", b" "))
        if found.type == "message_stop":
            self._take_stop(event, out)
            return event, None
        self._note(found)
        self.events += found.type != "ping"
        if self._screen is None:
            out.append(event)
            return event, None
        return event, _as_chunk(found)

    def _may_show(self, event: bytes, data: bytes) -> bool:
        return self._screen is None or self._screen.may_show_beside(event, data)

    def _pass_on(self, passed: list[bytes], out: list[bytes]) -> None:
        out += passed
        if self._screen is not None and self._screen.ended:
            self.cut = True
            self._finish(out, encode_named_event("message_stop", {}))
        else:
            self._note_passed(passed)

    def _take_stop(self, event: bytes, out: list[bytes]) -> None:
        if self._stop_reason is None:
            raise UpstreamBroken("the model server ended its stream in mid-sentence", code="upstream_incomplete")
        self.events += 1
        self._finish(out, event)

    def _finish(self, out: list[bytes], stop: bytes) -> None:
        exchange = self._exchange
        exchange.outcome = Outcome.OK
        if self._screen is not None:
            out += self._screen.finish()
            exchange.note_filtered(self._screen.verdicts)
        out.append(stop)
        self.done = True

    def _note(self, found: MessageEvent) -> None:
        exchange = self._exchange
        usage = found.usage if found.message is None else found.message.usage
        if usage is not None and found.type == "message_delta":
            exchange.usage = read_usage(usage)
        if found.type == "content_block_delta":
            exchange.pieces += 1
        if found.type == "message_delta" and found.delta and isinstance(reason := found.delta.get("stop_reason"), str):
            self._stop_reason = exchange.finish_reason = reason

    def _note_passed(self, events: list[bytes]) -> None:
        for event in events:
            if b"content_block_st" not in event:
                continue
            found = decode_event(data_of(event))
            if found.type == "content_block_start":
                self._passed_block = found.index
            elif found.type == "content_block_stop":
                self._passed_block = None

    def _refusal(self, template: bytes, index: int) -> bytes:
        """What ends a message of which no more may be shown."""
        end = b""
        if self._passed_block is not None:
            end = encode_named_event("content_block_stop", {"index": self._passed_block})
        why = {"stop_reason": "refusal", "stop_sequence": None}
        return end + encode_named_event(
            "message_delta", {"delta": why, "usage": {"output_tokens": self._exchange.pieces}}
        )


def read_usage(usage: MessageUsage) -> Usage:
    """The model server's own numbers; what came from the cache is part of the input for us."""
    cached = plausible(usage.cache_read_input_tokens or 0)
    fresh = (usage.input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Usage(
        input_tokens=plausible(fresh + cached),
        output_tokens=plausible(usage.output_tokens or 0),
        cached_tokens=cached,
        source=UsageSource.REPORTED,
    )


def _as_chunk(event: MessageEvent) -> Chunk:
    """The texts of an event in the form that guardrails read; every content block is a text of its own."""
    if event.type == "message_delta" and event.delta:
        ended = "stop" if event.delta.get("stop_reason") else None
        return Chunk(
            choices=[ChunkChoice(delta={"stop_sequence": event.delta.get("stop_sequence")}, finish_reason=ended)]
        )
    said: list[Any] = [each for each in (event.content_block, event.delta) if each is not None]
    if event.message is not None:
        said += event.message.content or []
    return Chunk(choices=[ChunkChoice(delta={f"block {event.index + at}": each}) for at, each in enumerate(said)])


def _name_of(event: MessageEvent) -> bytes:
    """The event's name as it may be shown: its type, if that is one of this API's."""
    return event.type.encode() if event.type in _EVENTS else b"message"


def _nothing(event: bytes, blocked: set[int]) -> bytes:
    return b""


def _error(error: TidegateError) -> dict[str, object]:
    said = error_object(error)["error"]
    kind = said.get("type") if isinstance(error, UpstreamRejected) else _TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": said.get("message")}}


def _error_event(exchange: Exchange, event: MessageEvent) -> UpstreamError:
    found = plain_members(event.error or {})
    if found.get("type") in _CALLERS_FAULT:
        return UpstreamRejected(
            400, {"message": "The model server refused the request."} | shown_error(exchange, found)
        )
    return UpstreamError("the model server reported an error in the middle of its stream")
