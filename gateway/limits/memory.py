"""Limits of one process: requests per minute and requests at once, per project."""

import time
from dataclasses import dataclass

from gateway.limits.refusals import too_many_at_once, too_many_per_minute
from tidegate.types import Principal


@dataclass(slots=True)
class _Project:
    allowance: float
    refilled_at: float
    running: int = 0


class MemoryLimits:
    """A token bucket and a counter per project; exact because there is one process."""

    def __init__(self) -> None:
        self._projects: dict[tuple[str, str], _Project] = {}

    def admit(self, principal: Principal) -> None:
        """See `ProjectLimits.admit`."""
        per_minute = principal.limits.requests_per_minute
        if per_minute is None:
            return
        project, now = self._project(principal, per_minute), time.monotonic()
        refill = (now - project.refilled_at) * per_minute / 60
        project.allowance = min(per_minute, project.allowance + refill)
        project.refilled_at = now
        if project.allowance < 1:
            raise too_many_per_minute(per_minute, project.allowance)
        project.allowance -= 1

    def reserve(self, principal: Principal) -> None:
        """See `ProjectLimits.reserve`."""
        most = principal.limits.concurrent_requests
        project = self._project(principal, principal.limits.requests_per_minute or 0)
        if most is not None and project.running >= most:
            raise too_many_at_once(most)
        project.running += 1

    def release(self, principal: Principal) -> None:
        """See `ProjectLimits.release`."""
        self._projects[principal.organisation, principal.project].running -= 1

    def _project(self, principal: Principal, allowance: float) -> _Project:
        key = (principal.organisation, principal.project)
        project = self._projects.get(key)
        if project is None:
            project = self._projects[key] = _Project(allowance, time.monotonic())
        return project
