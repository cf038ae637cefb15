"""JSON lines on standard error: ids and numbers, never content."""

import logging
import os
import time
from collections.abc import Callable

import msgspec

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class JsonLog:
    """Writes one JSON object per line."""

    def __init__(self, service: str, level: str, write: Callable[[bytes], object] | None = None) -> None:
        self._service = service
        self._least = _LEVELS[level]
        self._write = write or _to_stderr
        self._encode = msgspec.json.Encoder().encode

    def write(self, level: str, event: str, **fields: object) -> None:
        """Writes `event` with `fields`; the caller sees to it that no field holds content or a secret."""
        if _LEVELS[level] < self._least:
            return
        line = {
            "at": int(time.time() * 1000) / 1000,
            "level": level,
            "service": self._service,
            "event": event,
            **fields,
        }
        self._write(self._encode(line) + b"\n")

    def adopt_standard_logging(self) -> None:
        """Sends warnings and worse of the libraries through here, with their message template but not its values."""
        root = logging.getLogger()
        root.handlers = [_Bridge(self)]
        root.setLevel(logging.WARNING)


def _to_stderr(line: bytes) -> None:
    """One write per line: lines of several processes do not mix."""
    os.write(2, line)


class _Bridge(logging.Handler):
    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        level = record.levelname.lower() if record.levelname.lower() in _LEVELS else "info"
        self._log.write(level, "library", logger=record.name, template=str(record.msg)[:200], error=error)
