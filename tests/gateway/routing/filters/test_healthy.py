"""Routing filter `healthy`."""

from gateway.routing.filters.healthy import Config, build
from gateway.routing.interfaces import ReplicaState


def test_ejected_replicas_are_left_out_unless_none_is_left() -> None:
    good, bad = ReplicaState("a"), ReplicaState("b", ejected_until=10)
    healthy = build(Config(), None)
    assert healthy.keep([good, bad], now=5) == [good]
    assert healthy.keep([good, bad], now=11) == [good, bad]
    assert healthy.keep([bad], now=5) == [bad]
