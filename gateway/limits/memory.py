"""Limits of one process: requests per minute and requests at once, per project."""

import time
from dataclasses import dataclass, field

from tidegate.errors import RateLimited
from tidegate.types import Principal


@dataclass(slots=True)
class _Project:
    allowance: float
    refilled_at: float = field(default_factory=time.monotonic)
    running: int = 0


class MemoryLimits:
    """A token bucket and a counter per project; exact because there is one process."""

    def __init__(self) -> None:
        self._projects: dict[tuple[str, str], _Project] = {}

    def admit(self, principal: Principal) -> None:
        """Takes one request from the project's minute.

        Raises:
            RateLimited: the minute is used up.
        """
        per_minute = principal.limits.requests_per_minute
        if per_minute is None:
            return
        project, now = self._project(principal, per_minute), time.monotonic()
        refill = (now - project.refilled_at) * per_minute / 60
        project.allowance = min(per_minute, project.allowance + refill)
        project.refilled_at = now
        if project.allowance < 1:
            wait_s = (1 - project.allowance) * 60 / per_minute
            raise RateLimited(
                f"The project has used its {per_minute} requests per minute. Try again in {wait_s:.1f} s.",
                retry_after_s=wait_s,
            )
        project.allowance -= 1

    def reserve(self, principal: Principal) -> None:
        """Takes a slot; `release` gives it back.

        Raises:
            RateLimited: all slots are taken.
        """
        most = principal.limits.concurrent_requests
        project = self._project(principal, principal.limits.requests_per_minute or 0)
        if most is not None and project.running >= most:
            raise RateLimited(f"The project already runs its {most} requests at once.", retry_after_s=1)
        project.running += 1

    def release(self, principal: Principal) -> None:
        """Gives a slot back."""
        self._projects[principal.organisation, principal.project].running -= 1

    def _project(self, principal: Principal, allowance: float) -> _Project:
        key = (principal.organisation, principal.project)
        project = self._projects.get(key)
        if project is None:
            project = self._projects[key] = _Project(allowance)
        return project
