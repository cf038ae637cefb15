"""Time limits at no cost per request: one coarse timer looks at everything that has a limit.

A timer of its own for every wait would cost more than many a stage of a request; limits here are late by `PERIOD_S` at
most, which no limit of a gateway minds. All look at the same moments, so that a process that has little to do is woken
once for all of them.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from tidegate.errors import InvalidRequest

PERIOD_S = 0.2


class Limited(Protocol):
    """Something that may run out of time."""

    due: float
    """Loop time at which it is overdue."""

    def overdue(self, now: float) -> None:
        """Called once `due` has passed, again and again until it is removed or `due` is moved."""
        ...


class Deadlines:
    """Watches what is added until it is removed; the timer runs only while there is something to watch."""

    def __init__(self) -> None:
        self._watched: set[Limited] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limited: Limited) -> None:
        """Begins to watch; `limited.due` must be set."""
        self._watched.add(limited)
        if self._timer is None:
            self._loop = self._loop or asyncio.get_running_loop()
            self._timer = self._next_look(self._loop)

    def remove(self, limited: Limited) -> None:
        """Stops watching; harmless if it is not watched."""
        self._watched.discard(limited)

    def _look(self) -> None:
        assert self._loop is not None  # noqa: S101
        now = self._loop.time()
        for limited in [item for item in self._watched if item.due <= now]:
            limited.overdue(now)
        self._timer = self._next_look(self._loop) if self._watched else None

    def _next_look(self, loop: asyncio.AbstractEventLoop) -> asyncio.TimerHandle:
        return loop.call_at((loop.time() // PERIOD_S + 1) * PERIOD_S, self._look)


def patience_s(headers: Mapping[bytes, bytes], *, stream: bool, most_s: float) -> float:
    """How long a caller gives a request: `x-tidegate-timeout-ms`, what OpenAI's client says of itself, or `most_s`.

    `x-stainless-read-timeout` (seconds, sent by the `openai` package) is the wait for any byte, so it says how long a
    whole answer may take, but nothing of a stream.

    Raises:
        InvalidRequest: our own header is not a number of milliseconds.
    """
    limit_s = most_s
    if (ours := headers.get(b"x-tidegate-timeout-ms")) is not None:
        if not ours.isdigit() or not int(ours[:12]) > 0:
            raise InvalidRequest("The header x-tidegate-timeout-ms must be a whole number of milliseconds above 0.")
        limit_s = min(limit_s, int(ours[:12]) / 1000)
    if not stream and (theirs := headers.get(b"x-stainless-read-timeout")) is not None:
        try:
            seconds = float(theirs)
        except ValueError:
            return limit_s
        if seconds > 0:  # also false for NaN
            limit_s = min(limit_s, seconds)
    return limit_s
