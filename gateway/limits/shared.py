"""Limits that several processes of one machine share, exactly: a table in shared memory under a lock of the kernel's.

Nothing to install, some five microseconds a request, and right after a crash: the kernel lets a dead process's lock go, and
whoever notices its death calls `forget`, which takes its running requests out of the table.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.limits.interface import MODELS
from gateway.limits.refusals import too_many_at_once, too_many_per_minute
from gateway.place import MOST_SLOTS
from tidegate.errors import OperatorError
from tidegate.types import Principal

PROJECTS = 16_384
"""Rows; a project whose services are used has two."""
_HEAD = struct.Struct("<16sdd")  # who; requests left of the minute; when that was counted, CLOCK_MONOTONIC, s
_RUNNING = struct.Struct(f"<{MOST_SLOTS}I")
_ROW_BYTES = _HEAD.size + _RUNNING.size
_NOBODY = b"\0" * 16


def create() -> int:
    """An empty table, as a descriptor that child processes may inherit."""
    table = os.memfd_create("tidegate-limits", 0)
    os.ftruncate(table, PROJECTS * _ROW_BYTES)
    return table


class SharedLimits:
    """See `ProjectLimits`; `process` is this process's place, below `MOST_SLOTS`, which no other living process has."""

    def __init__(self, table: int, process: int) -> None:
        self._table = table
        self._process = process
        self._memory = mmap.mmap(table, PROJECTS * _ROW_BYTES)
        self._rows: dict[tuple[str, str, str], int] = {}

    def admit(self, principal: Principal) -> None:
        """See `ProjectLimits.admit`."""
        per_minute = principal.limits.requests_per_minute
        if per_minute is None:
            return
        with self._locked():
            row, now = self._row(principal), time.monotonic()
            who, allowance, refilled_at = _HEAD.unpack_from(self._memory, row)
            allowance += (now - refilled_at) * per_minute / 60  # a new row's minute has never been touched
            allowance = min(per_minute, allowance)
            enough = allowance >= 1
            _HEAD.pack_into(self._memory, row, who, allowance - enough, now)
        if not enough:
            raise too_many_per_minute(per_minute, (1 - allowance) * 60 / per_minute)

    def reserve(self, principal: Principal, kind: str = MODELS) -> None:
        """See `ProjectLimits.reserve`."""
        most = principal.limits.concurrent_requests
        with self._locked():
            at = self._row(principal, kind) + _HEAD.size
            running = sum(_RUNNING.unpack_from(self._memory, at)) if most is not None else 0
            if most is None or running < most:
                self._add(at + 4 * self._process, 1)
                return
        raise too_many_at_once(most)

    def release(self, principal: Principal, kind: str = MODELS) -> None:
        """See `ProjectLimits.release`."""
        with self._locked():
            self._add(self._row(principal, kind) + _HEAD.size + 4 * self._process, -1)

    def forget(self, process: int) -> None:
        """Takes the running requests of a dead process out of the table."""
        with self._locked():
            for row in range(0, PROJECTS * _ROW_BYTES, _ROW_BYTES):
                if self._memory[row : row + 16] != _NOBODY:
                    struct.pack_into("<I", self._memory, row + _HEAD.size + 4 * process, 0)

    def _add(self, at: int, number: int) -> None:
        (before,) = struct.unpack_from("<I", self._memory, at)
        struct.pack_into("<I", self._memory, at, before + number)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._table, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._table, fcntl.LOCK_UN)

    def _row(self, principal: Principal, kind: str = MODELS) -> int:
        """Where a project's row begins; makes it if there is none. Only under the lock."""
        key = (principal.organisation, principal.project, kind)
        row = self._rows.get(key)
        if row is not None:
            return row
        who = hashlib.sha256("\0".join(key if kind != MODELS else key[:2]).encode()).digest()[:16]
        first = int.from_bytes(who[:4], "little")
        for step in range(PROJECTS):
            row = (first + step) % PROJECTS * _ROW_BYTES
            found = self._memory[row : row + 16]
            if found == _NOBODY:
                _HEAD.pack_into(self._memory, row, who, 0.0, 0.0)
            if found in (who, _NOBODY):
                self._rows[key] = row
                return row
        raise OperatorError(f"There are more than {PROJECTS} projects, which is more than shared limits can hold.")
