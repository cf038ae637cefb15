"""A limited number of slots, shared fairly between projects."""

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

from tidegate.errors import RateLimited

Project = tuple[str, str]
"""Organisation and project."""


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """What all projects together, and each of them, may hold."""

    slots: int
    per_project: int
    """Slots of one project at the same time; below `slots`, another project never waits for all of them."""
    max_waiting: int
    """Waiting jobs of one project."""
    max_waiting_bytes: int
    """Bytes of one project's waiting jobs; a single job may have more."""


class FairSlots:
    """Grants slots to the project that holds fewest, then in turn; a project's own jobs keep their order."""

    def __init__(self, limits: SlotLimits, what: str) -> None:
        self._limits = limits
        self._what = what
        self._running: Counter[Project] = Counter()
        self._waiting: OrderedDict[Project, deque[tuple[asyncio.Future[None], int]]] = OrderedDict()
        self._waiting_bytes: Counter[Project] = Counter()

    async def acquire(self, project: Project, size_bytes: int = 0) -> None:
        """Take a slot, waiting for one if need be. If cancelled while waiting, no slot is held.

        Raises:
            RateLimited: the project already has too many jobs, or bytes, waiting.
        """
        if project not in self._waiting and self._is_free(project):
            self._running[project] += 1
            return
        self._check_room(project, size_bytes)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append((turn, size_bytes))
        self._waiting_bytes[project] += size_bytes
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(project)
            else:
                self._withdraw(project, turn, size_bytes)
            raise

    def release(self, project: Project) -> None:
        """Give a slot back and grant it to whatever job is next."""
        self._running[project] -= 1
        if not self._running[project]:
            del self._running[project]
        self._grant()

    def _is_free(self, project: Project) -> bool:
        return self._running.total() < self._limits.slots and self._running[project] < self._limits.per_project

    def _check_room(self, project: Project, size_bytes: int) -> None:
        waiting = len(self._waiting.get(project, ()))
        too_many_bytes = waiting > 0 and self._waiting_bytes[project] + size_bytes > self._limits.max_waiting_bytes
        if waiting >= self._limits.max_waiting or too_many_bytes:
            raise RateLimited(
                f"This project already has {waiting} {self._what} waiting. Send fewer at the same time.",
                retry_after_s=1,
            )

    def _grant(self) -> None:
        while ready := [project for project in self._waiting if self._is_free(project)]:
            project = min(ready, key=lambda item: self._running[item])
            turn, size_bytes = self._waiting[project].popleft()
            self._waiting_bytes[project] -= size_bytes
            self._waiting.move_to_end(project)
            self._forget_if_empty(project)
            if not turn.done():
                self._running[project] += 1
                turn.set_result(None)

    def _withdraw(self, project: Project, turn: asyncio.Future[None], size_bytes: int) -> None:
        queue = self._waiting.get(project)
        if queue is None or (turn, size_bytes) not in queue:
            return
        queue.remove((turn, size_bytes))
        self._waiting_bytes[project] -= size_bytes
        self._forget_if_empty(project)

    def _forget_if_empty(self, project: Project) -> None:
        if not self._waiting[project]:
            del self._waiting[project], self._waiting_bytes[project]
