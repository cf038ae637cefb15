"""JSON lines on standard error: ids and numbers, never content."""

import asyncio
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_AT_ONCE = _LEVELS["warning"]
_GATHER_S = 0.01


class JsonLog:
    """Writes one JSON object per line."""

    def __init__(self, service: str, level: str, write: Callable[[bytes], object] | None = None) -> None:
        self._service = service
        self._least = _LEVELS[level]
        self._write = write or _to_stderr
        self._gathered: _Gathered | None = None
        self._encode = msgspec.json.Encoder().encode

    def write(self, level: str, event: str, **fields: object) -> None:
        """Writes `event` with `fields`; the caller sees to it that no field holds content or a secret."""
        weight = _LEVELS[level]
        if weight < self._least:
            return
        fields = {
            "at": int(time.time() * 1000) / 1000,
            "level": level,
            "service": self._service,
            "event": event,
            **fields,
        }
        line = self._encode(fields) + b"\n"
        if self._gathered is None:
            self._write(line)
        else:
            self._gathered.add(line, at_once=weight >= _AT_ONCE)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, lines are written a hundredth of a second later, many at once under load; warnings and worse at once.

        A killed process loses the lines of that hundredth of a second at most, and never a usage row.
        """
        self._gathered = gathered = _Gathered(self._write, asyncio.get_running_loop())
        try:
            yield
        finally:
            self._gathered = None
            gathered.flush()

    def adopt_standard_logging(self) -> None:
        """Sends warnings and worse of the libraries through here, with their message template but not its values."""
        root = logging.getLogger()
        root.handlers = [_Bridge(self)]
        root.setLevel(logging.WARNING)


def _to_stderr(line: bytes) -> None:
    """One write for whole lines: those of several processes do not mix."""
    os.write(2, line)


class _Gathered:
    """Lines that wait for others; those of other threads do not."""

    def __init__(self, write: Callable[[bytes], object], loop: asyncio.AbstractEventLoop) -> None:
        self._write = write
        self._call_later = loop.call_later
        self._is_awaited = False
        self._own_thread = threading.get_ident()
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, line: bytes, *, at_once: bool) -> None:
        if threading.get_ident() != self._own_thread:
            self._write(line)
            return
        if self._size + len(line) > select.PIPE_BUF:  # a pipe takes so much in one piece
            self.flush()
        if not self._is_awaited and not at_once:
            self._is_awaited = True
            self._call_later(_GATHER_S, self._in_time)
        self._lines.append(line)
        self._size += len(line)
        if at_once:
            self.flush()

    def _in_time(self) -> None:
        self._is_awaited = False
        self.flush()

    def flush(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        if lines:
            self._write(b"".join(lines))


class _Bridge(logging.Handler):
    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        level = record.levelname.lower() if record.levelname.lower() in _LEVELS else "info"
        self._log.write(level, "library", logger=record.name, template=str(record.msg)[:200], error=error)
