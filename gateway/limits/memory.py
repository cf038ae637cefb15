"""Limits of one process: requests per minute and requests at once, per project."""

import time

from gateway.limits.interface import MODELS, SERVICES
from gateway.limits.refusals import too_many_at_once, too_many_per_minute
from tidegate.types import Principal

Project = tuple[str, str]
"""Organisation and name."""


class Buckets:
    """A token bucket per project: a minute's requests at most, refilled evenly."""

    def __init__(self) -> None:
        self._left: dict[Project, tuple[float, float]] = {}
        """How many there were, and when that was, monotonic, s."""

    def take(self, project: Project, per_minute: float) -> float:
        """Takes one request; 0, or how long there will be none, in s."""
        now = time.monotonic()
        left, counted_at = self._left.get(project, (per_minute, now))
        left = min(per_minute, left + (now - counted_at) * per_minute / 60)
        wait_s = (1 - left) * 60 / per_minute if left < 1 else 0.0
        self._left[project] = (left if wait_s else left - 1, now)
        return wait_s


class MemoryLimits:
    """A token bucket and a counter per project; exact because there is one process."""

    def __init__(self) -> None:
        self._buckets = Buckets()
        self._running: dict[str, dict[Project, int]] = {MODELS: {}, SERVICES: {}}

    def admit(self, principal: Principal) -> None:
        """See `ProjectLimits.admit`."""
        per_minute = principal.limits.requests_per_minute
        if per_minute is None:
            return
        wait_s = self._buckets.take((principal.organisation, principal.project), per_minute)
        if wait_s:
            raise too_many_per_minute(per_minute, wait_s)

    def reserve(self, principal: Principal, kind: str = MODELS) -> None:
        """See `ProjectLimits.reserve`."""
        project, most = (principal.organisation, principal.project), principal.limits.concurrent_requests
        running = self._running[kind].get(project, 0)
        if most is not None and running >= most:
            raise too_many_at_once(most)
        self._running[kind][project] = running + 1

    def release(self, principal: Principal, kind: str = MODELS) -> None:
        """See `ProjectLimits.release`."""
        self._running[kind][principal.organisation, principal.project] -= 1
