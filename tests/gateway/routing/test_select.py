"""Selection: a due probe, else filters, then scorers, then the least used; and when a replica is left out."""

import pytest

from gateway.routing.filters.healthy import Healthy
from gateway.routing.replicas import ReplicaState
from gateway.routing.scorers.least_busy import LeastBusy
from gateway.routing.select import Selector
from tidegate.config.settings import HealthSettings

HEALTH = HealthSettings()


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def selector(clock: Clock) -> Selector:
    return Selector([Healthy()], [LeastBusy()], clock)


def picked(selector: Selector, replicas: list[ReplicaState], exclude: frozenset[str] = frozenset()) -> str | None:
    pick = selector.pick(replicas, exclude)
    return pick.replica.url if pick else None


def fail(replica: ReplicaState, now: float) -> bool:
    probe = replica.began(now, stream=False)
    ejected = replica.failed(now)
    replica.ended(stream=False, probe=probe)
    return ejected


def test_the_least_busy_is_picked_and_ties_go_round(selector: Selector, clock: Clock) -> None:
    replicas = [ReplicaState("a"), ReplicaState("b")]
    turns = []
    for _ in range(4):
        pick = selector.pick(replicas)
        assert pick is not None and pick.reason
        pick.replica.began(clock.now, stream=False)
        pick.replica.answered(clock.now)
        pick.replica.ended(stream=False, probe=False)
        turns.append(pick.replica.url)
    assert sorted(turns) == ["a", "a", "b", "b"]
    replicas[0].inflight = 1
    assert picked(selector, replicas) == "b"


def test_excluded_replicas_are_not_tried_again(selector: Selector) -> None:
    replicas = [ReplicaState("a"), ReplicaState("b")]
    assert picked(selector, replicas, frozenset({"a"})) == "b"
    assert picked(selector, replicas, frozenset({"a", "b"})) is None


def test_failures_in_a_row_eject_and_a_success_between_them_does_not(selector: Selector, clock: Clock) -> None:
    bad, other = ReplicaState("bad"), ReplicaState("other", inflight=5)
    assert [fail(bad, clock.now) for _ in range(2)] == [False, False]
    bad.answered(clock.now)
    assert [fail(bad, clock.now) for _ in range(3)] == [False, False, True]
    assert picked(selector, [bad, other]) == "other"
    assert not fail(bad, clock.now), "what was on its way does not lengthen the ejection"


def test_one_request_probes_an_ejected_replica_and_each_failure_doubles_the_time(
    selector: Selector, clock: Clock
) -> None:
    bad, other = ReplicaState("bad"), ReplicaState("other", inflight=5)
    for _ in range(3):
        fail(bad, clock.now)
    for pause_s in (10, 20, 40, 80, 160, 300, 300):
        clock.now += pause_s - 1
        assert picked(selector, [bad, other]) == "other"
        clock.now += 1
        assert picked(selector, [bad, other]) == "bad"
        probe = bad.began(clock.now, stream=True)
        assert probe and picked(selector, [bad, other]) == "other", "one probe at a time"
        assert bad.failed(clock.now)
        bad.ended(stream=True, probe=probe)


def test_a_probe_that_the_caller_breaks_off_decides_nothing(selector: Selector, clock: Clock) -> None:
    bad, other = ReplicaState("bad"), ReplicaState("other", inflight=5)
    for _ in range(3):
        fail(bad, clock.now)
    clock.now += 10
    bad.ended(stream=True, probe=bad.began(clock.now, stream=True))
    assert picked(selector, [bad, other]) == "bad"


def test_a_replica_that_came_back_starts_slowly(selector: Selector, clock: Clock) -> None:
    back, other = ReplicaState("back"), ReplicaState("other")
    for _ in range(3):
        fail(back, clock.now)
    clock.now += 10
    probe = back.began(clock.now, stream=True)
    back.answered(clock.now)
    back.ended(stream=True, probe=probe)
    assert back.serves(clock.now) and back.warmth(clock.now) == 0.1
    other.inflight = 5
    assert picked(selector, [back, other]) == "other", "a tenth of the usual share"
    clock.now += HEALTH.slow_start_s / 2
    assert picked(selector, [back, other]) == "back"
    clock.now += HEALTH.slow_start_s
    assert back.warmth(clock.now) == 1


def test_a_replica_whose_streams_are_all_silent_is_not_preferred(selector: Selector, clock: Clock) -> None:
    stuck, other = ReplicaState("stuck"), ReplicaState("other", inflight=5)
    stuck.began(clock.now, stream=True)
    clock.now += HEALTH.stuck_after_s - 1
    assert picked(selector, [stuck, other]) == "stuck"
    clock.now += 1
    assert picked(selector, [stuck, other]) == "other"
    stuck.progress_at = clock.now
    assert picked(selector, [stuck, other]) == "stuck"


def test_a_whole_answer_that_takes_long_is_no_silence(selector: Selector, clock: Clock) -> None:
    working, other = ReplicaState("working"), ReplicaState("other", inflight=5)
    working.began(clock.now, stream=False)
    clock.now += 10 * HEALTH.stuck_after_s
    assert picked(selector, [working, other]) == "working"


def test_a_replica_that_asks_for_a_pause_gets_it_within_bounds(selector: Selector, clock: Clock) -> None:
    busy, other = ReplicaState("busy"), ReplicaState("other", inflight=5)
    busy.rests(clock.now, 5)
    assert picked(selector, [busy, other]) == "other"
    clock.now += 5
    assert picked(selector, [busy, other]) == "busy"
    busy.rests(clock.now, 86_400)
    clock.now += HEALTH.rest_at_most_s
    assert picked(selector, [busy, other]) == "busy"


def test_where_none_serves_all_are_tried(selector: Selector, clock: Clock) -> None:
    replicas = [ReplicaState("a"), ReplicaState("b")]
    for replica in replicas:
        for _ in range(3):
            fail(replica, clock.now)
    assert picked(selector, replicas) in ("a", "b")


def test_filters_may_leave_none(clock: Clock) -> None:
    class Nobody:
        def keep(self, replicas: object, now: float) -> list[ReplicaState]:
            return []

    assert Selector([Nobody()], [LeastBusy()], clock).pick([ReplicaState("a"), ReplicaState("b")]) is None
