"""What a filter and a scorer are; both are built once and see only what is here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True)
class ReplicaState:
    """What is known of a replica now, from our own traffic."""

    url: str
    inflight: int = 0
    failures: int = 0
    """Failures in a row."""
    ejected_until: float = 0.0
    """Monotonic time before which it gets no requests unless no other is left."""
    requests: int = field(default=0)


class Filter(Protocol):
    """Says which replicas may serve."""

    def keep(self, replicas: Sequence[ReplicaState], now: float) -> Sequence[ReplicaState]:
        """Those of `replicas` that may; O(replicas)."""
        ...


class Scorer(Protocol):
    """Says which replicas should serve."""

    def score(self, replicas: Sequence[ReplicaState]) -> Sequence[float]:
        """One float in [0, 1] per replica, same order, higher is better; O(replicas)."""
        ...
