"""One coarse timer for all time limits."""

import asyncio

from gateway.deadlines import PERIOD_S, Deadlines


class Thing:
    def __init__(self, due: float) -> None:
        self.due = due
        self.told = 0

    def overdue(self, now: float) -> None:
        assert now >= self.due
        self.told += 1


def test_what_is_overdue_is_told_and_nothing_else() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time()
        deadlines, soon, late, removed = Deadlines(), Thing(now + 0.05), Thing(now + 60), Thing(now)
        for thing in (soon, late, removed):
            deadlines.add(thing)
        deadlines.remove(removed)
        deadlines.remove(removed)
        await asyncio.sleep(2.5 * PERIOD_S)
        assert soon.told >= 1 and late.told == removed.told == 0

    asyncio.run(main())


def test_the_timer_rests_when_nothing_is_watched() -> None:
    async def main() -> None:
        deadlines, thing = Deadlines(), Thing(0)
        deadlines.add(thing)
        deadlines.remove(thing)
        await asyncio.sleep(1.5 * PERIOD_S)
        assert deadlines._timer is None and thing.told == 0
        deadlines.add(thing)
        assert deadlines._timer is not None

    asyncio.run(main())
