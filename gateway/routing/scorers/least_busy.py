"""Routing scorer `least_busy`: prefers the replica with the fewest of our requests in flight."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from gateway.routing.interfaces import ReplicaState


class Config(BaseModel):
    """Options of `type: least_busy`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "LeastBusy":
    """The scorer."""
    return LeastBusy()


class LeastBusy:
    """1 / (1 + requests in flight)."""

    def score(self, replicas: Sequence[ReplicaState]) -> Sequence[float]:
        """See `Scorer.score`."""
        return [1 / (1 + replica.inflight) for replica in replicas]
