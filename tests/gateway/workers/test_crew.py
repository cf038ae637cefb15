"""What becomes of workers whose end cannot be settled at once."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

from gateway.workers import crew as crews
from gateway.workers.crew import Crew, Gifts, Worker
from tidegate.telemetry.logs import JsonLog


def crew_of(bury: Callable[[int], None], told: list[bytes]) -> Crew:
    return Crew(Gifts(Path("none"), 0, 0, Path("none")), bury, lambda: None, JsonLog("gateway", "info", told.append))


async def ended() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)


def test_a_worker_whose_journal_cannot_be_closed_is_settled_once_there_is_room() -> None:
    tries: list[int] = []

    def bury(slot: int) -> None:
        tries.append(slot)
        if len(tries) < 2:
            raise OSError(28, "No space left on device")

    told: list[bytes] = []

    async def run() -> bool:
        crew = crew_of(bury, told)
        worker = Worker(3, await ended(), dismissed=True)
        crew._workers.add(worker)
        await crew._watch(worker)
        return worker in crew._workers

    assert not asyncio.run(run()) and tries == [3, 3]
    assert json.loads(told[0])["event"] == "worker_not_settled"


def test_stopping_does_not_wait_for_a_worker_that_cannot_be_settled_nor_fails_at_one_that_ended() -> None:
    def bury(slot: int) -> None:
        raise OSError(28, "No space left on device")

    async def run() -> None:
        crew = crew_of(bury, [])
        worker = Worker(3, await ended())
        crew._workers.add(worker)
        watching = asyncio.create_task(crew._watch(worker))
        await worker.process.wait()
        crews._tell(worker, signal.SIGTERM)
        async with asyncio.timeout(10):
            await crew.stop(1)
        await watching

    asyncio.run(run())
