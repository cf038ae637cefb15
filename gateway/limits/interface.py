"""What the stages ask of limits, wherever they are kept."""

from typing import Protocol

from tidegate.types import Principal


class ProjectLimits(Protocol):
    """Requests per minute and requests at once, per project."""

    def admit(self, principal: Principal) -> None:
        """Takes one request from the project's minute.

        Raises:
            RateLimited: the minute is used up.
        """

    def reserve(self, principal: Principal) -> None:
        """Takes a slot; `release` gives it back.

        Raises:
            RateLimited: all slots are taken.
        """

    def release(self, principal: Principal) -> None:
        """Gives a slot back."""
