"""The local append-only usage journal: what happened, on disk before anybody asks the database.

A request writes a `begin` record before dispatch and an `end` record when it settles, into a file that is mapped into
memory. The pages are the kernel's: a killed process loses nothing that it wrote. (A power failure may lose the last
second; the shipper syncs.) One process owns a folder by a lock.

Files are JSON lines named `<number>.jsonl`; a new one begins when one is full. All of a file's space is reserved first,
so a full disk is an error when a file begins and never a signal in the middle of a write. What is reserved reads as NULs,
which JSON has none of: a file's text ends at its first NUL. Files are cut to their text, except a killed process's last.

Recovery, at the next start, turns every `begin` without an `end` into one row with outcome `interrupted`.
"""

import contextlib
import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

import msgspec

from tidegate.errors import JournalFull, OperatorError
from tidegate.types import Outcome, UsageSource

BEGIN, END = b"b", b"e"
"""First byte of a line."""

READ_BYTES = 262_144
"""How much is read at once; no line is longer."""

_PEEK_BYTES = 4096
"""How much is read to see whether there is anything."""

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
        self._spare = segment_bytes // 8
        """Kept in every file for the ends of what has begun, should the disk be full then."""
        self._lock = -1
        self._number = 0
        self._file = -1
        self._memory = mmap.mmap(-1, 1)
        self._size = 0
        self._failed: str | None = None

    def open(self) -> None:
        """Takes the folder and begins a new file.

        Raises:
            OperatorError: another process owns the folder, or it cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._number = max((number_of(path) for path in segments(self.directory)), default=0)
            self._begin_segment(self._segment_bytes)
        except BlockingIOError as error:
            raise OperatorError(
                f"journal {self.directory} belongs to another running gateway; give each its own"
            ) from error
        except OSError as error:
            raise OperatorError(f"journal {self.directory}: {error.strerror}") from error

    def close(self) -> None:
        """Lets the folder go."""
        self._end_segment()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def begin(self, row: dict[str, Any]) -> None:
        """A request is about to be dispatched; `row` holds the usage columns known so far.

        Raises:
            JournalFull: it cannot be written; nothing was.
        """
        try:
            self._write(BEGIN + _encode(row) + b"\n", self._spare)
        except OSError as error:
            raise JournalFull("This gateway cannot write its usage journal at the moment; try again.") from error

    def end(self, row: dict[str, Any], *, begun: bool = True) -> None:
        """A request has settled; `row` is its complete usage row. One that never began takes no other's room.

        Raises:
            OSError: it cannot be written; nothing was.
        """
        self._write(END + _encode(row) + b"\n", 0 if begun else self._spare)

    def trouble(self) -> str | None:
        """Why nothing can begin, if so; tries once more, since without requests nobody else does."""
        if self._failed is not None:
            with contextlib.suppress(OSError):
                self._begin_segment(self._segment_bytes)
        return self._failed

    def _write(self, line: bytes, spare: int) -> None:
        end = self._size + len(line)
        if end + spare > len(self._memory):
            self._begin_segment(max(self._segment_bytes, 2 * len(line)))
            end = len(line)
        self._memory[self._size : end] = line
        self._size = end

    def _begin_segment(self, size: int) -> None:
        """Goes on in a new file. It gets its name when it is ready, and with that the one before is complete."""
        unnamed = self.directory / "next"
        file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            memory = mmap.mmap(file, size)
            unnamed.rename(self.directory / f"{self._number + 1:08d}.jsonl")
        except OSError as error:
            os.close(file)
            unnamed.unlink(missing_ok=True)  # a full disk needs the space back
            self._failed = error.strerror or str(error)
            raise
        self._end_segment()
        self._failed = None
        self._number, self._file, self._memory, self._size = self._number + 1, file, memory, 0

    def _end_segment(self) -> None:
        self._memory.close()
        if self._file >= 0:
            os.ftruncate(self._file, self._size)
            os.close(self._file)
            self._file = -1


def segments(directory: Path) -> list[Path]:
    """A journal's files, oldest first; the last one may still be written."""
    return sorted((directory / name for name in _names_in(directory) if name.endswith(".jsonl")), key=number_of)


def _names_in(directory: Path) -> list[str]:
    """Several times faster than `Path.glob`, which counts for what is done every second."""
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(directory)
    return []


def number_of(segment: Path) -> int:
    """Where a file stands in the journal."""
    return int(segment.stem)


def whole_lines(block: bytes) -> list[bytes]:
    """The lines of a block, without one that is still being written and what is only reserved."""
    end = block.find(b"\0")
    return block[: block.rfind(b"\n", 0, len(block) if end < 0 else end) + 1].splitlines(keepends=True)


def unread(segment: Path, position: int) -> int:
    """How many bytes a file's text has beyond `position`."""
    descriptor = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size <= position or os.pread(descriptor, 1, size - 1) != b"\0":
            return max(0, size - position)
        found, most = 0, _PEEK_BYTES
        while block := os.pread(descriptor, most, position + found):
            end = block.find(b"\0")
            if end >= 0:
                return found + end
            found, most = found + len(block), READ_BYTES
        return found
    finally:
        os.close(descriptor)


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
        for line in whole_lines(path.read_bytes()):
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
