"""What the stages ask of limits, wherever they are kept."""

from collections.abc import Awaitable
from typing import Protocol

from tidegate.types import Principal

MODELS, SERVICES = "running", "services"
"""Slots are of two kinds, each bounded by the project's limit: a run holds one for services while its model calls take others."""


class ProjectLimits(Protocol):
    """Requests per minute and requests at once, per project.

    Whoever must ask elsewhere answers with something to await; who knows at once does not cost a turn of the loop.
    """

    def admit(self, principal: Principal) -> Awaitable[None] | None:
        """Takes one request from the project's minute.

        Raises:
            RateLimited: the minute is used up.
            LimitsAway: nobody knows.
        """

    def reserve(self, principal: Principal, kind: str = MODELS) -> Awaitable[None] | None:
        """Takes a slot; `release` gives it back. Who is cancelled while he waits has none.

        Raises:
            RateLimited: all slots are taken.
            LimitsAway: nobody knows.
        """

    def release(self, principal: Principal, kind: str = MODELS) -> None:
        """Gives a slot back."""
