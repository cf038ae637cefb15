"""The local append-only usage journal: what happened, on disk before anybody asks the database.

A request writes a `begin` record before dispatch and an `end` record when it settles, each with one `write` to an
append-only file: a killed process loses nothing that it wrote. (A power failure may lose the last second; the shipper
syncs.) One process owns a folder by a lock. Files are JSON lines named `<number>.jsonl`; a new one begins when one is full.

Recovery, at the next start, turns every `begin` without an `end` into one row with outcome `interrupted`.
"""

import fcntl
import os
from pathlib import Path
from typing import Any

import msgspec

from tidegate.errors import OperatorError
from tidegate.types import Outcome, UsageSource

BEGIN, END = b"b", b"e"
"""First byte of a line."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Id(msgspec.Struct):
    request_id: str


_skim = msgspec.json.Decoder(_Id).decode


class Journal:
    """The writing end; every method is synchronous and cheap, so no disconnect can skip it."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._lock = -1
        self._file = -1
        self._size = 0
        self._segment = 0

    def open(self) -> None:
        """Takes the folder and begins a new file.

        Raises:
            OperatorError: another process owns the folder, or it cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(
                f"journal {self.directory} belongs to another running gateway; give each its own"
            ) from error
        except OSError as error:
            raise OperatorError(f"journal {self.directory}: {error.strerror}") from error
        self._begin_segment(max((number_of(path) for path in segments(self.directory)), default=0) + 1)

    def close(self) -> None:
        """Lets the folder go."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def begin(self, row: dict[str, Any]) -> None:
        """A request is about to be dispatched; `row` holds the usage columns known so far."""
        self._write(BEGIN, row)

    def end(self, row: dict[str, Any]) -> None:
        """A request has settled; `row` is its complete usage row."""
        self._write(END, row)

    def _write(self, mark: bytes, row: dict[str, Any]) -> None:
        line = mark + _encode(row) + b"\n"
        os.write(self._file, line)
        self._size += len(line)
        if self._size >= self._segment_bytes:
            os.close(self._file)
            self._begin_segment(self._segment + 1)

    def _begin_segment(self, number: int) -> None:
        self._segment, self._size = number, 0
        path = self.directory / f"{number:08d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def segments(directory: Path) -> list[Path]:
    """A journal's files, oldest first; the last one may still be written."""
    return sorted(directory.glob("*.jsonl"), key=number_of)


def number_of(segment: Path) -> int:
    """Where a file stands in the journal."""
    return int(segment.stem)


def request_of(line: bytes) -> str | None:
    """Whose row a line holds; None for a line that a crash has torn. Cheaper than `parse`."""
    try:
        return _skim(line[1:]).request_id
    except ValueError:
        return None


def recover(journal: Journal) -> int:
    """Writes an `interrupted` end for every request that an earlier process began and never ended; how many there were.

    Call it between `Journal.open` and the first request; reads every file that is left.
    """
    begun: dict[str, dict[str, Any]] = {}
    for path in segments(journal.directory):
        with path.open("rb") as file:
            for line in file:
                row = parse(line)
                if row is None:
                    continue
                if line.startswith(END):
                    begun.pop(row["request_id"], None)
                else:
                    begun[row["request_id"]] = row
    for row in begun.values():
        journal.end(row | {"outcome": Outcome.INTERRUPTED, "usage_source": UsageSource.ESTIMATED})
    return len(begun)


def parse(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None for a line that a crash has torn."""
    try:
        row = _decode(line[1:])
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
