"""Routing filter `healthy`."""

from gateway.routing.filters.healthy import Config, build
from gateway.routing.replicas import ReplicaState


def test_replicas_that_do_not_serve_are_left_out_unless_none_is_left() -> None:
    good, bad = ReplicaState("a"), ReplicaState("b", resting_until=10)
    healthy = build(Config(), None)
    assert healthy.keep([good, bad], now=5) == [good]
    assert healthy.keep([good, bad], now=11) == [good, bad]
    assert healthy.keep([bad], now=5) == [bad]
