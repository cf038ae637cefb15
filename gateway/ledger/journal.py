"""The local append-only usage journal: what happened, on disk before anybody asks the database.

A request writes a `begin` record before dispatch and an `end` record when it settles, each with one `write` to an
append-only file: a killed process loses nothing that it wrote. (A power failure may lose the last second; the shipper
syncs.) One process owns a folder by a lock. Files are JSON lines named `<number>.jsonl`; a new one begins when one is full.

Recovery, at the next start, turns every `begin` without an `end` into one row with outcome `interrupted`.
"""

import fcntl
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from tidegate.errors import OperatorError

BEGIN, END = b"b", b"e"
"""First byte of a line."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_skim = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Journal:
    """The writing end; every method is synchronous and cheap, so no disconnect can skip it."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._lock = -1
        self._file = -1
        self._size = 0
        self.segment = 0
        self._open: dict[str, int] = {}
        self._open_in: Counter[int] = Counter()
        self.unshipped_bytes = 0

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
        numbers = [int(path.stem) for path in self.segments()]
        self.unshipped_bytes = sum(path.stat().st_size for path in self.segments())
        self._begin_segment(max(numbers, default=0) + 1)

    def close(self) -> None:
        """Lets the folder go."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def begin(self, request_id: str, row: dict[str, Any]) -> None:
        """A request is about to be dispatched; `row` holds the usage columns known so far."""
        self._open[request_id] = self.segment
        self._open_in[self.segment] += 1
        self._write(BEGIN, row)

    def end(self, request_id: str, row: dict[str, Any]) -> None:
        """A request has settled; `row` is its complete usage row."""
        self._write(END, row)
        began_in = self._open.pop(request_id, None)
        if began_in is not None:
            self._open_in[began_in] -= 1

    def sync(self) -> None:
        """Makes what was written safe against a power failure; blocks on the disk."""
        if self._file >= 0:
            os.fdatasync(self._file)

    def segments(self) -> list[Path]:
        """The journal's files, oldest first."""
        return sorted(self.directory.glob("*.jsonl"), key=lambda path: int(path.stem))

    def may_drop(self, path: Path) -> bool:
        """Whether a shipped file is no longer needed: not being written, and every request begun in it has ended."""
        number = int(path.stem)
        return number < self.segment and not self._open_in.get(number)

    def dropped(self, path: Path) -> None:
        """`path` has been deleted."""
        self._open_in.pop(int(path.stem), None)

    def _write(self, mark: bytes, row: dict[str, Any]) -> None:
        line = mark + _encode(row) + b"\n"
        os.write(self._file, line)
        self._size += len(line)
        self.unshipped_bytes += len(line)
        if self._size >= self._segment_bytes:
            os.close(self._file)
            self._begin_segment(self.segment + 1)

    def _begin_segment(self, number: int) -> None:
        self.segment, self._size = number, 0
        path = self.directory / f"{number:08d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def is_row(line: bytes) -> bool:
    """Whether a line holds a whole row: cheaper than `parse`."""
    try:
        _skim(line[1:])
    except ValueError:
        return False
    return True


def parse(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None for a line that a crash has torn."""
    try:
        row = _decode(line[1:])
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
