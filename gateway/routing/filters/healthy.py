"""Routing filter `healthy`: leaves out replicas that failed several times in a row, for a while."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from gateway.routing.interfaces import ReplicaState


class Config(BaseModel):
    """Options of `type: healthy`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "Healthy":
    """The filter."""
    return Healthy()


class Healthy:
    """Keeps replicas that are not ejected; all of them if every one is, since trying beats refusing."""

    def keep(self, replicas: Sequence[ReplicaState], now: float) -> Sequence[ReplicaState]:
        """See `Filter.keep`."""
        return [replica for replica in replicas if replica.ejected_until <= now] or replicas
