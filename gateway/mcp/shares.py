"""A bounded supply that projects share: no project holds more than a quarter of it, so one cannot stop the others."""

from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.errors import Overloaded, RateLimited
from tidegate.types import Principal

_PROJECTS = 4
"""How many projects it takes to use everything up."""


class Shares:
    """Counts what is in use, in all and by project; of one process."""

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._share = max(1, total // _PROJECTS)
        self._what = what
        self._used = 0
        self._by_project: dict[tuple[str, str], int] = {}

    @contextmanager
    def taken(self, principal: Principal, amount: int = 1) -> Iterator[None]:
        """Holds `amount` inside the block.

        Raises:
            RateLimited: the project's share is used up.
            Overloaded: everything is.
        """
        project = (principal.organisation, principal.project)
        mine = self._by_project.get(project, 0)
        if mine + amount > self._share:
            raise RateLimited(
                f"This project already uses its share of {self._what} ({self._share}). Wait for some to end.",
                retry_after_s=1,
            )
        if self._used + amount > self._total:
            raise Overloaded(f"This gateway has no {self._what} left ({self._total}). Try again.")
        self._used += amount
        self._by_project[project] = mine + amount
        try:
            yield
        finally:
            self._used -= amount
            left = self._by_project.pop(project) - amount
            if left:
                self._by_project[project] = left
