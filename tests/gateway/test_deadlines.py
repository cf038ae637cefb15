"""One coarse timer for all time limits."""

import asyncio

from gateway.deadlines import PERIOD_S, REST_S, Deadlines


class Thing:
    def __init__(self, due: float) -> None:
        self.due = due
        self.told: list[float] = []

    def overdue(self, now: float) -> None:
        assert now >= self.due
        self.told.append(now)


def test_what_is_overdue_is_told_in_time_and_nothing_else() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time()
        deadlines, late, soon, removed = Deadlines(), Thing(now + 60), Thing(now + 0.05), Thing(now)
        for thing in (late, soon, removed):
            deadlines.add(thing)
        deadlines.remove(removed)
        deadlines.remove(removed)
        await asyncio.sleep(2.5 * PERIOD_S)
        assert soon.told and not late.told and not removed.told
        late.due = asyncio.get_running_loop().time()
        deadlines.hasten(late.due)
        await asyncio.sleep(1.5 * PERIOD_S)
        assert late.told

    asyncio.run(main())


def test_what_moves_its_limit_without_a_word_is_seen_all_the_same() -> None:
    async def main() -> None:
        deadlines, thing = Deadlines(), Thing(asyncio.get_running_loop().time() + 60)
        deadlines.add(thing)
        thing.due = 0
        await asyncio.sleep(REST_S + 1.5 * PERIOD_S)
        assert thing.told

    asyncio.run(main())


def test_all_look_at_the_same_moments_and_rarely_while_nothing_is_due() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time()
        some = [Deadlines() for _ in range(3)]
        things = [Thing(now + 0.05) for _ in some]
        for deadlines, thing in zip(some, things, strict=True):
            deadlines.add(thing)
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.5 * PERIOD_S)
        assert max(thing.told[0] for thing in things) - min(thing.told[0] for thing in things) < PERIOD_S / 2
        for thing in things:
            thing.due = now + 60
        await asyncio.sleep(1.5 * PERIOD_S)
        assert all(deadlines._next - asyncio.get_running_loop().time() > 5 * PERIOD_S for deadlines in some)

    asyncio.run(main())


def test_the_timer_rests_when_nothing_is_watched() -> None:
    async def main() -> None:
        deadlines, thing = Deadlines(), Thing(0)
        deadlines.add(thing)
        deadlines.remove(thing)
        await asyncio.sleep(1.5 * PERIOD_S)
        assert deadlines._timer is None and not thing.told
        deadlines.add(thing)
        assert deadlines._timer is not None

    asyncio.run(main())
