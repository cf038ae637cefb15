"""What a filter and a scorer are; both are built once and see only what is here."""

from collections.abc import Sequence
from typing import Protocol

from gateway.routing.replicas import ReplicaState


class Filter(Protocol):
    """Says which replicas may serve."""

    def keep(self, replicas: Sequence[ReplicaState], now: float) -> Sequence[ReplicaState]:
        """Those of `replicas` that may; O(replicas)."""
        ...


class Scorer(Protocol):
    """Says which replicas should serve."""

    def score(self, replicas: Sequence[ReplicaState], now: float) -> Sequence[float]:
        """One float in [0, 1] per replica, same order, higher is better; O(replicas)."""
        ...
