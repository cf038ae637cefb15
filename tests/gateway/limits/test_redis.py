"""Limits in Redis, as many processes ask for them at once; what whole gateways do is in tests/operations/test_limits.py."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.limits.redis import RedisLimits
from tests.gateway.limits.test_shared import principal
from tests.operations.redis import OwnRedis, own_redis
from tidegate.config.settings import LimitsSettings
from tidegate.errors import RateLimited
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Principal

pytestmark = pytest.mark.services

TAKER = """
import asyncio, sys
from tests.gateway.limits.test_redis import limits_in, take
from tests.gateway.limits.test_shared import principal

async def main():
    limits = limits_in(sys.argv[1])
    async with limits.running():
        who, admitted, reserved = principal(requests_per_minute=600, concurrent_requests=100), 0, 0
        await asyncio.sleep(0.2)
        async def ask():
            if await take(limits.admit(who)):
                return 1, await take(limits.reserve(who))
            return 0, 0
        done = await asyncio.gather(*(ask() for _ in range(400)))
        print(sum(admitted for admitted, _ in done), sum(reserved for _, reserved in done), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def limits_in(url: str, lease_s: float = 15, timeout_s: float = 5) -> RedisLimits:
    settings = LimitsSettings.model_validate(
        {"store": "redis", "redis": {"url": url}, "lease_s": lease_s, "timeout_s": timeout_s}
    )
    return RedisLimits(settings, Metrics(), JsonLog("test", "critical"))


async def take(asked: object) -> int:
    """1 if it was granted, whether at once or later."""
    try:
        if asked is not None:
            await asked  # type: ignore[misc]
    except RateLimited:
        return 0
    return 1


async def reserve(limits: RedisLimits, who: Principal) -> int:
    try:
        return await take(limits.reserve(who))
    except RateLimited:
        return 0


async def until(condition: object, timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OwnRedis]:
    with own_redis(tmp_path) as made:
        yield made


def test_many_processes_take_no_more_than_there_is_and_a_dead_ones_slots_come_back(store: OwnRedis) -> None:
    began = time.monotonic()
    argv = [sys.executable, "-c", TAKER, store.url]
    takers = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    said = [[int(word) for word in taker.stdout.readline().split()] for taker in takers if taker.stdout]
    refilled = (time.monotonic() - began) * 600 / 60
    assert 600 <= sum(admitted for admitted, _ in said) <= 600 + refilled + 1
    assert sum(reserved for _, reserved in said) == 100
    for taker in takers:
        taker.kill()
        taker.communicate()
    assert store.ask("ZCARD", "{tidegate}:running:o:p") == 100
    left = store.ask("PTTL", "{tidegate}:running:o:p")
    assert 0 < left <= 15_000, "nothing is left of who is gone"


async def _rate(store: OwnRedis) -> None:
    limits = limits_in(store.url)
    async with limits.running():
        await until(lambda: limits._away_since is None)
        one, other = (principal(name, requests_per_minute=600) for name in ("one", "other"))
        assert sum([await take(limits.admit(one)) for _ in range(700)]) >= 600
        with pytest.raises(RateLimited) as told:
            for _ in range(20):
                await limits.admit(one)  # type: ignore[misc]
        assert 0 < told.value.retry_after_s <= 0.1
        assert await take(limits.admit(other)) == 1, "projects do not meet"
        await asyncio.sleep(0.5)
        refilled = sum([await take(limits.admit(one)) for _ in range(20)])
        assert 4 <= refilled < 20, "a minute refills evenly"


def test_a_minute_refills_evenly_and_projects_do_not_meet(store: OwnRedis) -> None:
    asyncio.run(_rate(store))


@pytest.mark.parametrize("per_minute", [1, 2, 7, 59, 61])
def test_a_minute_holds_all_of_its_requests_at_once_and_not_one_more(store: OwnRedis, per_minute: int) -> None:
    async def ask() -> int:
        limits = limits_in(store.url)
        async with limits.running():
            who = principal(requests_per_minute=per_minute)
            return sum(await asyncio.gather(*(take(limits.admit(who)) for _ in range(per_minute + 1))))

    assert asyncio.run(ask()) == per_minute


async def _shares(store: OwnRedis) -> None:
    for number in range(3):
        store.ask("ZADD", "{tidegate}:processes", str(int(time.time() * 1000) + 60_000), f"other{number}")
    limits, who = limits_in(store.url, lease_s=5), principal(concurrent_requests=8)
    async with limits.running():
        for number, allowed in ((1, 2), (2, 2)):
            store.kill()
            await until(lambda: limits._away_since is not None)
            assert sum([await reserve(limits, who) for _ in range(8)]) == allowed, f"the {number}. time"
            for _ in range(allowed):
                limits.release(who)
            store.start()
            await until(lambda: limits._away_since is None)


def test_a_store_that_comes_back_empty_does_not_make_shares_larger(store: OwnRedis) -> None:
    asyncio.run(_shares(store))


async def _idle(store: OwnRedis) -> int:
    limits = limits_in(store.url, lease_s=6)
    async with limits.running():
        for _ in range(4):
            store.kill()
            await take(limits.admit(principal(requests_per_minute=9)))  # so that it is noticed
            assert limits._away_since is not None
            store.start()
            await until(lambda: limits._away_since is None)
        store.ask("CONFIG", "RESETSTAT")
        await asyncio.sleep(4.5)
        return int(store.ask("INFO", "commandstats")["cmdstat_eval"]["calls"])


def test_who_has_nothing_to_ask_speaks_three_times_a_lease_however_often_it_was_away(store: OwnRedis) -> None:
    assert 1 <= asyncio.run(_idle(store)) <= 3


async def _owed(store: OwnRedis) -> None:
    limits, who = limits_in(store.url, lease_s=60, timeout_s=0.3), principal(concurrent_requests=2)
    async with limits.running():
        assert [await reserve(limits, who) for _ in range(3)] == [1, 1, 0]
        store.hang()
        assert await take(limits.admit(principal(requests_per_minute=9))) == 1 and limits._away_since is not None
        limits.release(who)
        limits.release(who)
        await asyncio.sleep(1)  # in which it tries in vain
        store.go_on()
        await until(lambda: limits._away_since is None)
        await until(lambda: store.ask("ZCARD", "{tidegate}:running:o:p") == 0)


def test_what_ends_while_the_store_is_away_is_given_back_long_before_its_lease(store: OwnRedis) -> None:
    asyncio.run(_owed(store))
