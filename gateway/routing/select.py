"""Picks a replica: filters say which may, scorers which should, the least used breaks a tie."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.routing.interfaces import Filter, ReplicaState, Scorer

EJECT_AFTER_FAILURES = 3
EJECT_FOR_S = 10.0


@dataclass(frozen=True, slots=True)
class Pick:
    """The chosen replica and why."""

    replica: ReplicaState
    reason: str


class Selector:
    """Filters and scorers as configured; learns first bytes and failures from the pipeline."""

    def __init__(self, filters: Sequence[Filter], scorers: Sequence[Scorer]) -> None:
        self._filters = filters
        self._scorers = scorers

    def pick(self, replicas: Sequence[ReplicaState], exclude: frozenset[str] = frozenset()) -> Pick | None:
        """The replica to try next; None if every one is in `exclude`."""
        left: Sequence[ReplicaState] = [r for r in replicas if r.url not in exclude] if exclude else replicas
        if len(left) < 2:
            return Pick(left[0], "only replica") if left else None
        now = time.monotonic()
        for item in self._filters:
            left = item.keep(left, now)
        totals = [0.0] * len(left)
        for scorer in self._scorers:
            for index, score in enumerate(scorer.score(left)):
                totals[index] += score
        best = min(range(len(left)), key=lambda index: (-totals[index], left[index].requests))
        return Pick(left[best], f"score {totals[best]:.2f} of {len(left)} replicas")

    def began(self, replica: ReplicaState) -> None:
        """An attempt at `replica` begins."""
        replica.inflight += 1
        replica.requests += 1

    def ended(self, replica: ReplicaState, *, failed: bool) -> None:
        """The attempt ended; `failed` if the replica, not the caller, was at fault."""
        replica.inflight -= 1
        if not failed:
            replica.failures = 0
            return
        replica.failures += 1
        if replica.failures >= EJECT_AFTER_FAILURES:
            replica.ejected_until = time.monotonic() + EJECT_FOR_S
