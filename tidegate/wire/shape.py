"""A shortcut for streams: most events differ from the one before in nothing but a piece of text.

Once one event has been decoded, a later one that begins and ends with the same bytes, and between them holds only
characters that cannot end a JSON string, must decode to the same thing with another text: its bytes need no decoding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import DecodeError

from tidegate.wire.openai import Chunk, decode_chunk
from tidegate.wire.sse import data_of

_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')
_PROBE = "probe"


@dataclass(frozen=True, slots=True)
class EventShape:
    """What stands before and after the text of a stream's usual event."""

    before: bytes
    after: bytes
    index: int
    """The choice that all these events belong to."""
    path: tuple[str | int, ...]
    """Where the text stands in the choice's delta; empty for a completion's `text`."""

    def text_of(self, event: bytes) -> str | None:
        """The event's text if it has this shape, else None."""
        begin, end = len(self.before), len(event) - len(self.after)
        if not (begin < end and event.startswith(self.before) and event.endswith(self.after)):
            return None
        return _plain(event[begin:end])

    def run_from(self, events: Sequence[bytes], start: int) -> tuple[int, str | None]:
        """Where the run of such events that begins at `start` ends, and its text; None if it must be read one by one."""
        before, after, end = self.before, self.after, len(events)
        if not events[start].startswith(before):
            return start, None
        while not (events[end - 1].startswith(before) and events[end - 1].endswith(after)) and end > start + 1:
            end -= 1  # what ends a stream is not usual
        run, begin, stop = events[start:end], len(before), -len(after)
        if min(map(len, run)) <= begin - stop:
            return end, None
        texts = [event[begin:stop] for event in run]
        if before + (after + before).join(texts) + after != b"".join(run):
            return end, None
        return end, _plain(b"".join(texts))


def _plain(raw: bytes) -> str | None:
    """What stands between a JSON string's quotes, if it stands for itself and is not empty."""
    if _PLAIN.fullmatch(raw) is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def shape_of(event: bytes, chunk: Chunk) -> EventShape | None:
    """The shape of `event`, which decodes to `chunk`; None if it is not a plain piece of text."""
    choice = chunk.choices[0]
    text, path = (choice.text, ()) if choice.delta is None else (choice.delta.get("content"), ("content",))
    if not isinstance(text, str) or not text or choice.finish_reason is not None or chunk.usage is not None:
        return None
    if choice.delta is not None and len(choice.delta) != 1:
        return None
    quoted = b'"' + text.encode() + b'"'
    if event.count(quoted) != 1:
        return None
    before, _, after = event.partition(quoted)
    shape = EventShape(before + b'"', b'"' + after, choice.index, path)
    return shape if _holds(shape, chunk) else None


def _holds(shape: EventShape, chunk: Chunk) -> bool:
    """Whether another text between the same bytes changes that text in the decoded chunk and nothing else."""
    try:
        probe = decode_chunk(data_of(shape.before + _PROBE.encode() + shape.after))
    except DecodeError:
        return False
    choice = chunk.choices[0]
    if choice.delta is None:
        same = probe.choices[0].text == _PROBE
        probe.choices[0].text = choice.text
    else:
        same = probe.choices[0].delta == {"content": _PROBE}
        probe.choices[0].delta = choice.delta
    return same and probe == chunk
