"""Picks a replica: one that is due for a probe, else filters say which may and scorers which should.

The least used breaks a tie.
"""

import time
from collections.abc import Callable, Sequence

from gateway.routing.interfaces import Filter, Scorer
from gateway.routing.replicas import ReplicaState


class Pick:
    """The chosen replica and why."""

    __slots__ = ("reason", "replica")

    def __init__(self, replica: ReplicaState, reason: str) -> None:
        self.replica = replica
        self.reason = reason


class Selector:
    """Filters and scorers as configured."""

    def __init__(
        self, filters: Sequence[Filter], scorers: Sequence[Scorer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._filters = filters
        self._scorers = scorers
        self._clock = clock

    def pick(self, replicas: Sequence[ReplicaState], exclude: frozenset[str] = frozenset()) -> Pick | None:
        """The replica to try next; None if every one is in `exclude`, or the filters leave none."""
        left: Sequence[ReplicaState] = [r for r in replicas if r.url not in exclude] if exclude else replicas
        if len(left) < 2:
            return Pick(left[0], "only replica") if left else None
        now = self._clock()
        for replica in left:
            if replica.is_due_for_probe(now):
                return Pick(replica, "probe after ejection")
        for item in self._filters:
            left = item.keep(left, now)
        if not left:
            return None
        totals = [0.0] * len(left)
        for scorer in self._scorers:
            for index, score in enumerate(scorer.score(left, now)):
                totals[index] += score
        best = min(range(len(left)), key=lambda index: (-totals[index], left[index].requests))
        return Pick(left[best], f"score {totals[best]:.2f} of {len(left)} replicas")
