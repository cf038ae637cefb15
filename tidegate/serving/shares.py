"""A quantity that projects share, so that none can use it up: each may hold as much as it leaves free.

Alone a project gets half, two get a third each, and so on; a project that holds nothing gets in while anything is free.
"""

from tidegate.errors import Overloaded, RateLimited

Project = tuple[str, str]
"""Organisation and name."""


class Shares:
    """What of `total` is held, by project. Costs a dictionary's look-up; never awaits."""

    def __init__(self, total: int, what: str) -> None:
        """`what` names the quantity in errors: "requests at once"."""
        self.total = total
        self.free = total
        self._what = what
        self._held: dict[Project, int] = {}

    def check(self, project: Project, count: int = 1) -> int:
        """What `project` holds; nothing is taken.

        Raises:
            Overloaded: so much is not free.
            RateLimited: it is, but would be more than the project leaves to others.
        """
        held = self._held.get(project, 0)
        left = self.free - count
        if left < 0:
            raise Overloaded(f"This process has no room: it is limited to {self.total} {self._what}. Try again.")
        if held and held + count > left:
            message = f"The project holds its share of this process's {self.total} {self._what}. Try again."
            raise RateLimited(message, retry_after_s=1)
        return held

    def take(self, project: Project, count: int = 1) -> None:
        """Takes `count` for `project`; `give_back` returns it.

        Raises:
            Overloaded, RateLimited: as `check`.
        """
        self._held[project] = self.check(project, count) + count
        self.free -= count

    def give_back(self, project: Project, count: int = 1) -> None:
        """Returns what was taken."""
        left = self._held[project] - count
        self.free += count
        if left:
            self._held[project] = left
        else:
            del self._held[project]
