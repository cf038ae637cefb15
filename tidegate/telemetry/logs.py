"""JSON lines on standard error: ids and numbers, never content."""

import logging
import sys
import time
from typing import TextIO

import msgspec

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class JsonLog:
    """Writes one JSON object per line."""

    def __init__(self, service: str, level: str, stream: TextIO = sys.stderr) -> None:
        self._service = service
        self._least = _LEVELS[level]
        self._stream = stream
        self._encode = msgspec.json.Encoder().encode

    def write(self, level: str, event: str, **fields: object) -> None:
        """Writes `event` with `fields`; the caller sees to it that no field holds content or a secret."""
        if _LEVELS[level] < self._least:
            return
        line = {"at": round(time.time(), 3), "level": level, "service": self._service, "event": event, **fields}
        self._stream.write(self._encode(line).decode() + "\n")
        self._stream.flush()

    def adopt_standard_logging(self) -> None:
        """Sends warnings and worse of the libraries through here, with their message template but not its values."""
        root = logging.getLogger()
        root.handlers = [_Bridge(self)]
        root.setLevel(logging.WARNING)


class _Bridge(logging.Handler):
    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        level = record.levelname.lower() if record.levelname.lower() in _LEVELS else "info"
        self._log.write(level, "library", logger=record.name, template=str(record.msg)[:200], error=error)
