"""Screens a stream event by event, holding back only while something may be about to become a finding.

Events go out as the bytes they came in, and comments at once. While the end of a choice's text is open (a digit run, say),
the events that hold its open part wait, and later ones behind them, so order never changes. A finding ends its choice: what
was held of it is dropped and a last chunk with `finish_reason: content_filter` takes its place; other choices go on.

Every member of a choice is a text of its own. Where one follows another, what was open in the first is held no longer; where
people read one after the other, as content after reasoning, the place where they meet is read, too.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from guardrails.engine.chunks import LOGPROBS, MEETING_CHARS, Path, last_chunk, pieces_of, without_choices
from guardrails.engine.interfaces import Guardrail
from guardrails.engine.policy import KEY
from guardrails.engine.texts import scan_blocks
from tidegate.errors import UpstreamBroken
from tidegate.types import Verdict
from tidegate.wire.openai import UNREADABLE, Chunk, ChunkChoice

MAX_HELD_EVENTS = 4096  # some 40 suffice for one open number; more means the upstream sends empty deltas for ever
MAX_HELD_BYTES = 8_388_608
MAX_CHANNELS = 256
MAX_PIECES = 512
"""Of one event."""
MAX_BESIDE_BYTES = 4096
SLICE_CHARS = 4096
"""What is read in one go: about a millisecond at most."""

_WHOLE = frozenset({"id", "type", "role", "name", "index", "stop_sequence", KEY})
"""Members of a delta that are sent whole as a rule, so that nothing is held for them; the others are texts that go on."""
_MAY_GO_ON = _WHOLE - {"index", KEY}
_SHORT_WHOLE, _WHOLE_CHARS = 8, 64
"""Of those, what was sent before is read again with what follows."""

Channel = tuple[int, int, Path]
"""Guardrail, choice and path; the texts of one channel are read as one."""
_PROSE = frozenset({"content", "reasoning_content", "reasoning", "refusal", "text", "thinking"})
"""Members that people read one after the other; arguments of tools are not."""
_UNREADABLE = "the model server sent an event that cannot be read"
_JOINED: Path = ("joined",)


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

    __slots__ = (
        "_blocked", "_choices", "_finished", "_guardrails", "_has_stale", "_held", "_held_bytes", "_joined", "_last",
        "_latest", "_prose", "_texts", "_wholes", "_without", "verdicts",
    )  # fmt: skip

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
        self._latest: dict[int, Path] = {}
        """By choice, the text that came last."""
        self._prose: dict[int, Path] = {}
        """By choice, the text for people that came last; arguments of tools do not interrupt what people read."""
        self._joined: dict[int, int] = {}
        """By choice, characters since one text has followed another, while their meeting can still matter."""
        self._wholes: dict[tuple[int, Path], str] = {}
        self._held: list[_Held] = []
        self._held_bytes = 0
        self._blocked: set[int] = set()
        self._finished: set[int] = set()
        self._has_stale = False
        """There are texts of choices that have finished."""
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
        held, newly = _Held(event), list[int]()
        try:
            for _ in self._steps(chunk, held, newly):
                pass
            return self._after(held, newly)
        except UNREADABLE as error:
            raise UpstreamBroken(_UNREADABLE) from error

    async def feed_slowly(self, event: bytes, chunk: Chunk) -> list[bytes]:
        """As `feed` for a long event: other tasks of the event loop have their turn after every `SLICE_CHARS`.

        Raises:
            UpstreamBroken: too much would have to be held back.
        """
        held, newly = _Held(event), list[int]()
        try:
            for _ in self._steps(chunk, held, newly):
                await asyncio.sleep(0)
            return self._after(held, newly)
        except UNREADABLE as error:
            raise UpstreamBroken(_UNREADABLE) from error

    def pass_text(self, index: int, path: Path, text: str) -> bool:
        """Whether an event whose only text is `text` may go out at once; then it has been read. A shortcut of `feed`."""
        if self._held or self._blocked or index in self._joined or self._latest.get(index) != path:
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

    def may_show_beside(self, event: bytes, data: bytes) -> bool:
        """Whether `event` may go out with what it has beside its `data`, read by itself: comments, an id, a name."""
        if event.startswith(b"data: ") and len(event) == len(data) + 8:
            return True
        if len(event) - len(data) > MAX_BESIDE_BYTES:
            return False
        beside = [line for line in event.splitlines() if not line.startswith(b"data:")]
        text = b"\n".join(beside).decode(errors="replace")
        return not any(spans for guardrail in self._guardrails for spans in scan_blocks(guardrail, text))

    def finish(self) -> list[bytes]:
        """The events that may go out now that nothing follows.

        Raises:
            UpstreamBroken: what ends a choice cannot be made of an event so deep.
        """
        newly = [index for index in sorted({channel[1] for channel in self._texts}) if self._close(index)]
        last = self._held[-1].event if self._held else b""
        try:
            return self._end(newly, last) + self._release()
        except UNREADABLE as error:
            raise UpstreamBroken(_UNREADABLE) from error

    def _steps(self, chunk: Chunk, held: _Held, newly: list[int]) -> Iterator[None]:
        """Reads the texts of `chunk`, slice by slice; choices in which there is a finding are added to `newly`."""
        for choice in chunk.choices:
            index = choice.index
            if index in self._blocked:
                continue
            found = yield from self._read(choice, held)
            if not choice.logprobs and choice.delta:
                found = self._shut(index, LOGPROBS) or found
            if choice.finish_reason is not None:
                found = found or self._close(index)
                self._finished.add(index)
                self._has_stale = True
            if found:
                newly.append(index)
            yield

    def _read(self, choice: ChunkChoice, held: _Held) -> Generator[None, None, bool]:
        """Adds the texts of a choice to their channels; True if a finding is certain."""
        found = False
        for count, (path, text) in enumerate(pieces_of(choice)):
            if count >= MAX_PIECES:
                raise UpstreamBroken("the model server sent too many texts in one event")
            if path[-1:] and path[-1] in _WHOLE:
                latest = self._latest.get(choice.index)
                if path[0] == "tool_calls" and latest is not None and latest[:1] != ("tool_calls",):
                    found = self._shut(choice.index, latest) or found
                for step in self._add_whole(choice.index, path, text):
                    found = step or found
                    yield
                continue
            for at in range(0, len(text), SLICE_CHARS):
                found = self._add_slice(choice.index, path, text[at : at + SLICE_CHARS], held) or found
                yield
        return found

    def _add_slice(self, index: int, path: Path, text: str, held: _Held) -> bool:
        """Adds a text to its channels; True if a finding is certain."""
        found = False
        prose = path == () or path[-1] in _PROSE
        if path != LOGPROBS:
            latest = self._latest.get(index)
            if latest != path:
                self._latest[index] = path
                found = self._follow(index, latest, path if prose else None)
        for number, guardrail in enumerate(self._guardrails):
            found = self._add(guardrail, (number, index, path), text, held) or found
            if prose and index in self._joined:
                found = self._add(guardrail, (number, index, _JOINED), text, held) or found
        if prose and index in self._joined:
            self._joined[index] += len(text)
            self._part(index)
        return found

    def _follow(self, index: int, latest: Path | None, prose: Path | None) -> bool:
        """Another text follows the one at `latest`: `prose`, if people read it; True if what was left open makes a finding."""
        before = self._prose.get(index)
        if prose is not None:
            self._prose[index] = prose
            if before is not None and before != prose:
                self._joined[index] = 0
                for number in range(len(self._guardrails)):
                    self._begin_joined((number, index, before))
        return latest is not None and self._shut(index, latest)

    def _shut(self, index: int, path: Path) -> bool:
        """Nothing is held for a text any more; True if what was open of it makes a finding."""
        found = False
        for number, guardrail in enumerate(self._guardrails):
            state = self._texts.get((number, index, path))
            found = (state is not None and self._end_open(guardrail, state)) or found
        return found

    def _end_open(self, guardrail: Guardrail, state: _Text) -> bool:
        """Reads what is open of a text as final; True if that makes a finding."""
        if state.open_at is None:
            return False
        state.open_at = None
        return self._judge(guardrail, len(guardrail.scan(state.seen, final=True).findings))

    def _begin_joined(self, channel: Channel) -> None:
        """What the joined text begins with, unless it has begun; what was open is open in it."""
        joined, state = (*channel[:2], _JOINED), self._texts.get(channel)
        if joined in self._texts or state is None:
            return
        tail = state.seen[-MEETING_CHARS:]
        self._texts[joined] = _Text(tail, state.end - len(tail), state.open_at)
        for held in self._held:
            if channel in held.ends:
                held.ends[joined] = held.ends[channel]

    def _part(self, index: int) -> None:
        """Forgets the place where two texts met, if it cannot matter any more."""
        if self._joined[index] < MEETING_CHARS:
            return
        channels = [(number, index, _JOINED) for number in range(len(self._guardrails))]
        if any(channel in self._texts and self._texts[channel].open_at is not None for channel in channels):
            return
        del self._joined[index]
        for channel in channels:
            self._texts.pop(channel, None)

    def _add(self, guardrail: Guardrail, channel: Channel, text: str, held: _Held) -> bool:
        state = self._texts.get(channel)
        if state is None:
            if len(self._texts) >= MAX_CHANNELS:
                raise UpstreamBroken("the model server sent too many texts beside each other")
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

    def _add_whole(self, index: int, path: Path, text: str) -> Iterator[bool]:
        """Reads a text that nothing is held for: by itself, and with what was sent before in its place."""
        before = ""
        if path[-1] in _MAY_GO_ON:
            before = self._wholes.get((index, path), "")
            if text == before and len(text) > _SHORT_WHOLE:
                return  # the same once more, as some servers send it with every piece
            if not before and len(self._wholes) >= MAX_CHANNELS:
                raise UpstreamBroken("the model server sent too many texts beside each other")
            self._wholes[index, path] = (before + text)[-_WHOLE_CHARS:]
        for guardrail in self._guardrails:
            for spans in scan_blocks(guardrail, before + text):
                yield self._judge(guardrail, len(spans))

    def _after(self, held: _Held, newly: list[int]) -> list[bytes]:
        """What may go out now that `held` has been read."""
        held.ends = {channel: end for channel, end in held.ends.items() if self._is_open_at(channel, end)}
        if not newly and not self._held and not self._blocked and not self._is_open(held):
            self._forget_finished()
            return [held.event]
        self._held.append(held)
        self._held_bytes += len(held.event)
        if len(self._held) > MAX_HELD_EVENTS or self._held_bytes > MAX_HELD_BYTES:
            raise UpstreamBroken("the model server sent too many events that had to be held back")
        return self._end(newly, held.event) + self._release()

    def _close(self, index: int) -> bool:
        """Reads what is open of a choice as final; True if that makes a finding."""
        found = False
        for channel, state in self._texts.items():
            if channel[1] == index:
                found = self._end_open(self._guardrails[channel[0]], state) or found
        return found

    def _judge(self, guardrail: Guardrail, findings: int) -> bool:
        if findings:
            self.verdicts.append(Verdict(guardrail.name, "output", guardrail.on_output, findings))
        return findings > 0

    def _is_open(self, held: _Held) -> bool:
        return any(self._is_open_at(channel, end) for channel, end in held.ends.items())

    def _is_open_at(self, channel: Channel, end: int) -> bool:
        state = self._texts.get(channel)
        return state is not None and state.open_at is not None and end > state.open_at

    def _release(self) -> list[bytes]:
        count = 0
        for held in self._held:
            if self._is_open(held):
                break
            count += 1
        ready, self._held = self._held[:count], self._held[count:]
        self._held_bytes -= sum(len(held.event) for held in ready)
        self._forget_finished()
        if not self._blocked:
            return [held.event for held in ready]
        return [event for held in ready if (event := self._without(held.event, self._blocked))]

    def _forget_finished(self) -> None:
        if self._held or not self._has_stale:
            return
        self._has_stale = False
        self._texts = {channel: state for channel, state in self._texts.items() if channel[1] not in self._finished}
        self._wholes = {place: text for place, text in self._wholes.items() if place[0] not in self._finished}

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
