"""Routing scorer `least_busy`."""

from gateway.routing.interfaces import ReplicaState
from gateway.routing.scorers.least_busy import Config, build


def test_fewer_requests_in_flight_score_higher() -> None:
    scores = build(Config(), None).score([ReplicaState("a"), ReplicaState("b", inflight=3)])
    assert scores == [1.0, 0.25]
