"""Routing scorer `least_busy`."""

from gateway.routing.replicas import ReplicaState
from gateway.routing.scorers.least_busy import Config, build


def test_fewer_requests_in_flight_score_higher() -> None:
    scorer = build(Config(), None)
    assert scorer.score([ReplicaState("a"), ReplicaState("b", inflight=3)], now=0) == [1.0, 0.25]
    assert scorer.score([ReplicaState("back", warming_since=0)], now=15) == [0.5]
