"""Routing filter `healthy`: leaves out replicas that are ejected, have asked for a pause, or make no progress."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from gateway.routing.replicas import ReplicaState


class Config(BaseModel):
    """Options of `type: healthy`: none; `settings.routing.health` has the limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "Healthy":
    """The filter."""
    return Healthy()


class Healthy:
    """Keeps replicas that serve; all of them if none does, since trying beats refusing."""

    def keep(self, replicas: Sequence[ReplicaState], now: float) -> Sequence[ReplicaState]:
        """See `Filter.keep`."""
        return [replica for replica in replicas if replica.serves(now)] or replicas
