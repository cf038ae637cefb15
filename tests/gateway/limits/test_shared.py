"""Limits in shared memory: exact across processes, which are real ones here, and right after one of them dies."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gateway.limits import shared
from gateway.limits.interface import MODELS, SERVICES
from gateway.limits.memory import MemoryLimits
from gateway.limits.shared import SharedLimits, create
from tidegate.errors import OperatorError, RateLimited
from tidegate.types import Limits, Principal

TAKER = """
import sys, time
from gateway.limits.shared import SharedLimits
from tests.gateway.limits.test_shared import principal
from tidegate.errors import RateLimited
limits, taken = SharedLimits(int(sys.argv[1]), int(sys.argv[2])), 0
who = principal(requests_per_minute=600, concurrent_requests=100)
for _ in range(400):
    try:
        limits.admit(who)
        taken += 1
        limits.reserve(who)
    except RateLimited:
        pass
print(taken, flush=True)
time.sleep(60)
"""


def principal(project: str = "p", **limits: int) -> Principal:
    return Principal("o", project, "k", None, "default", Limits(**limits))


@pytest.fixture
def table() -> Iterator[int]:
    made = create()
    yield made
    os.close(made)


def test_many_processes_take_no_more_than_there_is_and_a_dead_ones_slots_come_back(table: int) -> None:
    began = time.monotonic()
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(table), str(number)], stdout=subprocess.PIPE, pass_fds=(table,)
        )
        for number in range(1, 5)
    ]
    admitted = sum(int(taker.stdout.readline()) for taker in takers if taker.stdout)
    refilled = (time.monotonic() - began) * 600 / 60
    assert 600 <= admitted <= 600 + refilled + 1
    limits, who = SharedLimits(table, 0), principal(requests_per_minute=600, concurrent_requests=100)
    with pytest.raises(RateLimited, match="100 requests at once"):
        limits.reserve(who)
    for taker in takers:
        taker.kill()
        taker.communicate()
    for number in range(1, 5):
        limits.forget(number)
    for _ in range(100):
        limits.reserve(who)
    with pytest.raises(RateLimited):
        limits.reserve(who)
    limits.release(who)
    limits.reserve(who)


@pytest.mark.parametrize("kind", ["memory", "shared"])
def test_a_minute_refills_evenly_and_projects_do_not_meet(
    kind: str, table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limits = MemoryLimits() if kind == "memory" else SharedLimits(table, 3)
    one, other = principal("one", requests_per_minute=60), principal("other", requests_per_minute=60)
    for _ in range(60):
        limits.admit(one)
    with pytest.raises(RateLimited) as told:
        limits.admit(one)
    assert told.value.headers[-1] == ("retry-after", "1")
    limits.admit(other)
    now[0] += 2.5
    limits.admit(one)
    limits.admit(one)
    with pytest.raises(RateLimited):
        limits.admit(one)
    now[0] += 3600
    for _ in range(60):
        limits.admit(one)
    with pytest.raises(RateLimited):
        limits.admit(one)


def test_no_limit_is_no_limit(table: int) -> None:
    limits = SharedLimits(table, 0)
    for _ in range(1000):
        limits.admit(principal())
        limits.reserve(principal())


def test_a_full_table_says_so(table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PROJECTS", 3)
    limits = SharedLimits(table, 0)
    for number in range(3):
        limits.reserve(principal(str(number)))
    limits.reserve(principal("1"))
    with pytest.raises(OperatorError, match="more than 3 projects"):
        limits.reserve(principal("3"))


@pytest.mark.parametrize("kind", ["memory", "shared"])
def test_services_have_slots_of_their_own(kind: str, table: int) -> None:
    limits, who = MemoryLimits() if kind == "memory" else SharedLimits(table, 3), principal(concurrent_requests=1)
    for slots in (MODELS, SERVICES):
        limits.reserve(who, slots)
        with pytest.raises(RateLimited):
            limits.reserve(who, slots)
    limits.release(who, SERVICES)
    limits.reserve(who, SERVICES)
    with pytest.raises(RateLimited):
        limits.reserve(who)
    if isinstance(limits, SharedLimits):
        limits.forget(3)
        limits.reserve(who)
        limits.reserve(who, SERVICES)
