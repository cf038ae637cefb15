"""Server-sent events: cutting a byte stream into events without changing a byte.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (line ends CRLF, LF or CR).
"""

import re
from codecs import BOM_UTF8
from collections.abc import Sequence

from tidegate.errors import UpstreamBroken

DONE = b"data: [DONE]\n\n"

_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))+")
_LINE = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Cuts a stream into whole events; the bytes of all events and `rest` add up to what came in."""

    __slots__ = ("_max_bytes", "rest")

    def __init__(self, max_bytes: int) -> None:
        self.rest = b""
        self._max_bytes = max_bytes

    def feed(self, pieces: Sequence[bytes]) -> Sequence[bytes]:
        """The events that `pieces` complete, each with its blank line."""
        if not self.rest and _are_events(pieces):
            return pieces  # nearly always: model servers write event by event
        data = b"".join((self.rest, *pieces))
        if b"\r" in data:
            events, self.rest = self._cut(data)
        else:
            parts = data.split(b"\n\n")
            self.rest = parts.pop()
            events = [part + b"\n\n" for part in parts]
        return events

    def check(self) -> None:
        """Call after each `feed`, once its events are dealt with.

        Raises:
            UpstreamBroken: the event under way exceeds the limit.
        """
        if len(self.rest) > self._max_bytes:
            raise UpstreamBroken("the model server sent an event that is too large")

    @staticmethod
    def _cut(data: bytes) -> tuple[list[bytes], bytes]:
        events, start = [], 0
        for match in _END.finditer(data):
            if match.end() == len(data) and data.endswith(b"\r"):
                break  # a LF may still follow and belong to this line end
            events.append(data[start : match.end()])
            start = match.end()
        return events, data[start:]


def _are_events(pieces: Sequence[bytes]) -> bool:
    """Whether every piece is one event: ends with the one blank line that it has."""
    data, count = b"".join(pieces), len(pieces)
    return (
        data.count(b"\n") == 2 * count and [piece[-2:] for piece in pieces] == [b"\n\n"] * count and b"\r" not in data
    )


def data_of(event: bytes) -> bytes:
    """The event's data: its `data` lines joined by newlines; empty for comments and other fields."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    values = []
    for line in _LINE.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            values.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(values)


def without_mark(event: bytes) -> bytes:
    """The event as clients read it: they drop a byte order mark at the beginning of a stream."""
    return event.removeprefix(BOM_UTF8)


def encode_event(data: bytes) -> bytes:
    """`data` (one line) as an event."""
    return b"data: " + data + b"\n\n"
