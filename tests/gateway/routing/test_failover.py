"""Further attempts: how many, after what pause, and what the budget leaves."""

import pytest

from gateway.routing.failover import Failover, RetryBudget
from tidegate.config.settings import RetrySettings
from tidegate.errors import (
    AnswerTooLarge,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamMisconfigured,
    UpstreamTimeout,
    UpstreamUnavailable,
)

SETTINGS = RetrySettings()


def pause(error: UpstreamError, attempts: int = 1, left_s: float = 100, replicas_left: bool = True) -> float | None:
    return Failover(SETTINGS).pause_s(error, attempts=attempts, left_s=left_s, replicas_left=replicas_left)


@pytest.mark.parametrize(
    ("kind", "beside", "alone"),
    [
        (UpstreamUnavailable, 3, 3),
        (UpstreamBusy, 3, 3),
        (UpstreamBroken, 2, 1),
        (UpstreamTimeout, 2, 1),
        (UpstreamError, 2, 1),
        (AnswerTooLarge, 1, 1),
        (UpstreamMisconfigured, 1, 1),
    ],
)
def test_attempts_are_bounded_by_what_may_have_happened(kind: type[UpstreamError], beside: int, alone: int) -> None:
    def attempts(replicas_left: bool) -> int:
        made = 1
        while pause(kind("x"), made, replicas_left=replicas_left) is not None:
            made += 1
        return made

    assert (attempts(True), attempts(False)) == (beside, alone)


def test_pauses_grow_and_are_half_random() -> None:
    for attempts, base in ((1, 0.05), (2, 0.1)):
        pauses = [pause(UpstreamUnavailable("x"), attempts) or 0 for _ in range(200)]
        assert base / 2 <= min(pauses) < max(pauses) <= base and max(pauses) - min(pauses) > base / 4


def test_nothing_is_tried_beyond_the_deadline() -> None:
    assert pause(UpstreamUnavailable("x"), left_s=0.01) is None
    assert pause(UpstreamBusy("x", retry_after_s=1), left_s=0.9, replicas_left=False) is None


def test_the_last_replica_is_waited_for_only_so_long() -> None:
    assert pause(UpstreamBusy("x", retry_after_s=1), replicas_left=False) == 1
    assert pause(UpstreamBusy("x", retry_after_s=3), replicas_left=False) is None
    assert (pause(UpstreamBusy("x", retry_after_s=3)) or 9) < 0.1, "another replica has not asked for a pause"


def test_the_budget_lets_through_a_share_of_the_requests() -> None:
    now = [0.0]
    budget = RetryBudget(SETTINGS, lambda: now[0])
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(100):
        budget.note_request()
    assert sum(budget.take() for _ in range(30)) in (10, 11), "never more at once than its size"
    taken = 0
    for _ in range(1000):
        budget.note_request()
        taken += budget.take()
    assert 190 <= taken <= 201
    now[0] += 4
    assert sum(budget.take() for _ in range(5)) == 2, "an idle model may retry a little"
