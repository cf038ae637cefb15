"""Whether a failed attempt is followed by another one, and when.

Only while no event of the answer has reached the caller, never beyond the deadline, at most `max_attempts` times, with
growing random pauses, and never for more than a share of a model's requests: retries must not bury what is left of a
fleet that is going down.
"""

import random
import time
from collections.abc import Callable

from tidegate.config.settings import RetrySettings
from tidegate.errors import Again, UpstreamError


class RetryBudget:
    """A bucket of retries: every request adds a share of one, every second a little, every retry takes one."""

    __slots__ = ("_at", "_clock", "_left", "_settings")

    def __init__(self, settings: RetrySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._left = float(settings.budget_size)
        self._at = clock()

    def note_request(self) -> None:
        """A request begins."""
        self._left = min(self._left + self._settings.budget_ratio, self._settings.budget_size)

    def take(self) -> bool:
        """Whether there is a retry left; then it is used."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._settings.budget_per_s, self._settings.budget_size)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Failover:
    """Decides; one per process."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._budgets: dict[str, RetryBudget] = {}

    def budget(self, model: str) -> RetryBudget:
        """The budget of a configured model."""
        if model not in self._budgets:
            self._budgets[model] = RetryBudget(self._settings)
        return self._budgets[model]

    def pause_s(self, error: UpstreamError, *, attempts: int, left_s: float, replicas_left: bool) -> float | None:
        """How long to wait before the next attempt; None if there is to be none, apart from the budget.

        `attempts` have been made, `left_s` remain until the deadline, `replicas_left` says whether one is untried.
        """
        settings = self._settings
        elsewhere = 2 if replicas_left else 1
        most = {Again.NEVER: 1, Again.ONCE: min(elsewhere, settings.max_attempts), Again.FREELY: settings.max_attempts}
        if attempts >= most[error.again]:
            return None
        pause_s = settings.backoff_s * 2 ** (attempts - 1) * random.uniform(0.5, 1)
        if not replicas_left and error.retry_after_s is not None:
            if error.retry_after_s > settings.wait_at_most_s:
                return None  # the caller is told instead
            pause_s = max(pause_s, error.retry_after_s)
        return pause_s if pause_s < left_s else None
