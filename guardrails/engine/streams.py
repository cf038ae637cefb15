"""Screens a stream event by event, holding back only while something may be about to become a finding.

Events are released as the bytes they came in. While the end of a choice's text is open (a digit run, say), the events
that hold its open part wait, and later ones behind them, so order never changes. A finding ends its choice: what was
held of it is dropped and a last chunk with `finish_reason: content_filter` takes its place; other choices go on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guardrails.engine.interfaces import Guardrail
from guardrails.engine.policy import KEY, strings
from tidegate.errors import UpstreamBroken
from tidegate.types import Verdict
from tidegate.wire.openai import Chunk, ChunkChoice, decode_any, encode
from tidegate.wire.sse import data_of, encode_event

MAX_HELD_EVENTS = 4096  # some 40 suffice for one open number; more means the upstream sends empty deltas for ever

_WHOLE = frozenset({"id", "type", "role", "name", "index"})
"""Members of a delta that are sent whole; the others are pieces of a text that goes on."""

Channel = tuple[int, int, tuple[str | int, ...]]
"""Guardrail, choice and path inside the choice; the texts of one channel are read as one."""


Piece = tuple[tuple[str | int, ...], str]
"""A text and its path inside the choice."""


@dataclass(slots=True)
class _Text:
    """The recent text of one channel. Positions count characters from the channel's beginning."""

    seen: str = ""
    offset: int = 0
    open_at: int | None = None

    @property
    def end(self) -> int:
        return self.offset + len(self.seen)

    def add(self, text: str) -> None:
        """Appends; while nothing is open only the last stretch is kept, as context."""
        if len(self.seen) > 512 and self.open_at is None:
            self.offset += len(self.seen) - 128
            self.seen = self.seen[-128:]
        self.seen += text


@dataclass(slots=True)
class _Held:
    event: bytes
    ends: dict[Channel, int] = field(default_factory=dict)


class StreamScreen:
    """One stream's state; not for reuse."""

    __slots__ = ("_blocked", "_choices", "_finished", "_guardrails", "_held", "_last", "_texts", "_without", "verdicts")

    def __init__(
        self,
        guardrails: tuple[Guardrail, ...],
        choices: int,
        *,
        last: Callable[[bytes, int], bytes] | None = None,
        without: Callable[[bytes, set[int]], bytes] | None = None,
    ) -> None:
        """`last` makes what ends a choice, `without` an event without some; both are chunks of OpenAI's unless given."""
        self._last = last or last_chunk
        self._without = without or without_choices
        self._guardrails = guardrails
        self._choices = choices
        self._texts: dict[Channel, _Text] = {}
        self._held: list[_Held] = []
        self._blocked: set[int] = set()
        self._finished: set[int] = set()
        self.verdicts: list[Verdict] = []

    @property
    def ended(self) -> bool:
        """Whether every choice is over and at least one was ended here: nothing more is worth waiting for."""
        return bool(self._blocked) and len(self._blocked | self._finished) >= self._choices

    def feed(self, event: bytes, chunk: Chunk) -> list[bytes]:
        """The events that may go out now that `event` has arrived; `chunk` is its decoded data.

        Raises:
            UpstreamBroken: too much would have to be held back.
        """
        held = _Held(event)
        newly: list[int] = []
        for choice in chunk.choices:
            if choice.index in self._blocked:
                continue
            found = self._read(choice, held)
            if choice.finish_reason is not None:
                found = found or self._close(choice.index)
                self._finished.add(choice.index)
            if found:
                newly.append(choice.index)
        if not newly and not self._held and not self._blocked and not self._is_open(held):
            return [event]
        self._held.append(held)
        if len(self._held) > MAX_HELD_EVENTS:
            raise UpstreamBroken("the model server sent too many events that had to be held back")
        return self._end(newly, event) + self._release()

    def pass_text(self, index: int, path: tuple[str | int, ...], text: str) -> bool:
        """Whether an event whose only text is `text` may go out at once; then it has been read. A shortcut of `feed`."""
        if self._held or self._blocked:
            return False
        states = []
        for number, guardrail in enumerate(self._guardrails):
            state = self._texts.get((number, index, path))
            if state is None or state.open_at is not None or guardrail.trigger.search(text) is not None:
                return False
            states.append(state)
        for state in states:
            state.add(text)
        return True

    def finish(self) -> list[bytes]:
        """The events that may go out now that nothing follows."""
        newly = [index for index in sorted({channel[1] for channel in self._texts}) if self._close(index)]
        last = self._held[-1].event if self._held else b""
        return self._end(newly, last) + self._release()

    def _read(self, choice: ChunkChoice, held: _Held) -> bool:
        """Adds the choice's texts to their channels; True if a finding is certain."""
        found = False
        delta = choice.delta
        said: Any = choice.text if delta is None else delta
        if delta is not None and len(delta) == 1 and isinstance(content := delta.get("content"), str):
            texts: list[Piece] = [(("content",), content)]  # nearly every chunk; the walk costs three times as much
        else:
            texts = [(path, text) for path, text in strings(said) if path[-1:] != (KEY,)]
        if choice.logprobs:
            texts.append((("logprobs",), _tokens(choice.logprobs)))
        for path, text in texts:
            if path[-1:] and path[-1] in _WHOLE:
                found = self._add_whole(text) or found
                continue
            for number, guardrail in enumerate(self._guardrails):
                channel = (number, choice.index, _channel_path(path, said))
                found = self._add(guardrail, channel, text, held) or found
        return found

    def _add(self, guardrail: Guardrail, channel: Channel, text: str, held: _Held) -> bool:
        state = self._texts.get(channel)
        if state is None:
            state = self._texts[channel] = _Text()
        state.add(text)
        held.ends[channel] = state.end
        if state.open_at is None and guardrail.trigger.search(text) is None:
            return False
        scan = guardrail.scan(state.seen, final=False)
        state.open_at = state.offset + scan.open_from if scan.open_from < len(state.seen) else None
        state.offset += scan.keep_from
        state.seen = state.seen[scan.keep_from :]
        return self._judge(guardrail, len(scan.findings))

    def _add_whole(self, text: str) -> bool:
        found = False
        for guardrail in self._guardrails:
            found = self._judge(guardrail, len(guardrail.scan(text, final=True).findings)) or found
        return found

    def _close(self, index: int) -> bool:
        """Reads what is open of a choice as final; True if that makes a finding."""
        found = False
        for channel, state in self._texts.items():
            if channel[1] == index and state.open_at is not None:
                guardrail = self._guardrails[channel[0]]
                found = self._judge(guardrail, len(guardrail.scan(state.seen, final=True).findings)) or found
                state.open_at = None
        return found

    def _judge(self, guardrail: Guardrail, findings: int) -> bool:
        if findings:
            self.verdicts.append(Verdict(guardrail.name, "output", guardrail.on_output, findings))
        return findings > 0

    def _is_open(self, held: _Held) -> bool:
        for channel, end in held.ends.items():
            open_at = self._texts[channel].open_at
            if open_at is not None and end > open_at:
                return True
        return False

    def _release(self) -> list[bytes]:
        count = 0
        for held in self._held:
            if self._is_open(held):
                break
            count += 1
        ready, self._held = self._held[:count], self._held[count:]
        if not self._blocked:
            return [held.event for held in ready]
        return [event for held in ready if (event := self._without(held.event, self._blocked))]

    def _end(self, newly: list[int], template: bytes) -> list[bytes]:
        """Ends the choices in `newly`: forgets their texts, drops their held events, says why."""
        if not newly:
            return []
        before: list[bytes] = []
        self._blocked.update(newly)
        for channel, state in self._texts.items():
            if channel[1] in self._blocked:
                state.open_at = None
                state.seen = ""
        for index in newly:
            before.append(self._last(template, index))
        return self._release() + before


def _channel_path(path: tuple[str | int, ...], said: Any) -> tuple[str | int, ...]:
    """The path, with a tool call's place in the list replaced by the index it says it has."""
    if len(path) > 1 and path[0] == "tool_calls" and isinstance(path[1], int):
        call = said["tool_calls"][path[1]]
        return ("tool_calls", call.get("index", path[1]) if isinstance(call, dict) else path[1], *path[2:])
    return path


def _tokens(logprobs: dict[str, Any]) -> str:
    """The tokens as one text. They may run ahead of the text itself while the model server looks out for a stop string."""
    chat = logprobs.get("content")
    tokens = (
        [item.get("token") for item in chat if isinstance(item, dict)]
        if isinstance(chat, list)
        else logprobs.get("tokens")
    )
    return "".join(token for token in tokens or [] if isinstance(token, str))


def without_choices(event: bytes, blocked: set[int]) -> bytes:
    """A chunk without the blocked choices; empty if nothing of it is left."""
    data = data_of(event)
    if not data.startswith(b"{"):
        return event
    chunk = decode_any(data)
    choices = chunk.get("choices") or []
    kept = [choice for choice in choices if choice.get("index", 0) not in blocked]
    if len(kept) == len(choices):
        return event
    if not kept:
        return b""
    chunk["choices"] = kept
    return encode_event(encode(chunk))


def last_chunk(template: bytes, index: int) -> bytes:
    """The chunk that ends a choice by `content_filter`, like `template` in all else."""
    data = data_of(template)
    chunk = decode_any(data) if data.startswith(b"{") else {}
    over: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": "content_filter"}
    over["text" if chunk.get("object") == "text_completion" else "delta"] = (
        "" if chunk.get("object") == "text_completion" else {}
    )
    kept = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
    return encode_event(encode({**kept, "choices": [over]}))
