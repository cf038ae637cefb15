"""Time limits at no cost per request: one coarse timer looks at everything that has a limit.

A timer of its own for every wait would cost more than many a stage of a request; limits here are late by `PERIOD_S` at
most, which no limit of a gateway minds. The timer wakes the process when something may be due, and at moments that all have
in common: with one stream to relay, being woken costs more than what is done then.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Protocol

from tidegate.errors import InvalidRequest

PERIOD_S = 0.1
REST_S = 1.0
"""The longest that is slept while there is something to watch."""


class Limited(Protocol):
    """Something that may run out of time."""

    due: float
    """Loop time at which it is overdue. Who moves it to an earlier time hastens, or is seen within `REST_S`."""

    def overdue(self, now: float) -> None:
        """Called once `due` has passed, again and again until it is removed or `due` is moved."""
        ...


class Deadlines:
    """Watches what is added until it is removed; the timer runs only while there is something to watch."""

    def __init__(self) -> None:
        self._watched: set[Limited] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf
        """Loop time of the next look."""

    def add(self, limited: Limited) -> None:
        """Begins to watch; `limited.due` must be set."""
        self._watched.add(limited)
        self.hasten(limited.due)

    def remove(self, limited: Limited) -> None:
        """Stops watching; harmless if it is not watched."""
        self._watched.discard(limited)

    def hasten(self, due: float) -> None:
        """For a limit that was moved to an earlier time: looks then."""
        if due < self._next - PERIOD_S:
            self._plan(due)

    def _plan(self, due: float) -> None:
        """The next look is at the first common moment after `due`."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        now = loop.time()
        self._next = (min(max(due, now), now + REST_S) // PERIOD_S + 1) * PERIOD_S
        self._timer = loop.call_at(self._next, self._look)

    def _look(self) -> None:
        assert self._loop is not None  # noqa: S101
        self._timer, self._next = None, math.inf
        now = self._loop.time()
        for limited in [item for item in self._watched if item.due <= now]:
            limited.overdue(now)
        if self._watched:
            self._plan(min(item.due for item in self._watched))


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
