"""Selection: filters, then scorers, then the least used."""

from gateway.routing.filters.healthy import Healthy
from gateway.routing.interfaces import ReplicaState
from gateway.routing.scorers.least_busy import LeastBusy
from gateway.routing.select import EJECT_AFTER_FAILURES, Selector

SELECTOR = Selector([Healthy()], [LeastBusy()])


def picked(replicas: list[ReplicaState], exclude: frozenset[str] = frozenset()) -> str | None:
    pick = SELECTOR.pick(replicas, exclude)
    return pick.replica.url if pick else None


def test_the_least_busy_is_picked_and_ties_go_round() -> None:
    replicas = [ReplicaState("a"), ReplicaState("b")]
    turns = []
    for _ in range(4):
        pick = SELECTOR.pick(replicas)
        assert pick is not None and pick.reason
        SELECTOR.began(pick.replica)
        SELECTOR.ended(pick.replica, failed=False)
        turns.append(pick.replica.url)
    assert sorted(turns) == ["a", "a", "b", "b"]
    replicas[0].inflight = 1
    assert picked(replicas) == "b"


def test_a_replica_that_keeps_failing_is_left_out_for_a_while() -> None:
    replicas = [ReplicaState("a"), ReplicaState("b", inflight=5)]
    for _ in range(EJECT_AFTER_FAILURES):
        assert picked(replicas) == "a"
        SELECTOR.began(replicas[0])
        SELECTOR.ended(replicas[0], failed=True)
    assert picked(replicas) == "b"


def test_excluded_replicas_are_not_tried_again() -> None:
    replicas = [ReplicaState("a"), ReplicaState("b")]
    assert picked(replicas, frozenset({"a"})) == "b"
    assert picked(replicas, frozenset({"a", "b"})) is None
