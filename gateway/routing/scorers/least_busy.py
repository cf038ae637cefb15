"""Routing scorer `least_busy`: prefers the replica with the fewest of our requests in flight."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from gateway.routing.replicas import ReplicaState


class Config(BaseModel):
    """Options of `type: least_busy`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "LeastBusy":
    """The scorer."""
    return LeastBusy()


class LeastBusy:
    """Its warmth divided by 1 + requests in flight: one that has just come back gets little at first."""

    def score(self, replicas: Sequence[ReplicaState], now: float) -> Sequence[float]:
        """See `Scorer.score`."""
        return [replica.warmth(now) / (1 + replica.inflight) for replica in replicas]
