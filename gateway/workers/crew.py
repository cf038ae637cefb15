"""The worker processes: started, watched, replaced, stopped."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.place import MOST_SLOTS, Place
from tidegate.errors import OperatorError
from tidegate.telemetry.logs import JsonLog

_START_S = 60.0
_HEALTHY_S = 10.0
_MOST_PAUSE_S = 30.0


@dataclass(eq=False, slots=True)
class Worker:
    """One process."""

    slot: int
    process: asyncio.subprocess.Process
    started: float = field(default_factory=time.monotonic)
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool = False
    dismissed: bool = False
    """It was told to go: its end is no accident."""


@dataclass(frozen=True, slots=True)
class Gifts:
    """What every worker inherits; see `Place`."""

    config: Path
    listener: int
    limits: int
    metrics: Path


class Crew:
    """As many workers as are wanted; `bury` is told of every slot whose process has ended, and may block."""

    def __init__(self, gifts: Gifts, bury: Callable[[int], None], lost: Callable[[], None], log: JsonLog) -> None:
        self._gifts = gifts
        self._bury = bury
        self._lost = lost
        self._log = log
        self._workers: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._stopping = False

    @property
    def ready(self) -> int:
        """How many serve and are not about to end."""
        return sum(worker.ready and not worker.dismissed for worker in self._workers)

    async def start(self, count: int) -> list[Worker]:
        """Starts so many workers and waits until all of them serve; if one does not, none is left.

        Raises:
            OperatorError: they do not start.
        """
        made = [await self._spawn() for _ in range(count)]
        waiting = [asyncio.ensure_future(worker.serving.wait()) for worker in made]
        ends = [asyncio.ensure_future(worker.process.wait()) for worker in made]
        deadline = time.monotonic() + _START_S
        try:
            while not all(worker.serving.is_set() for worker in made):
                left_s = deadline - time.monotonic()
                pending = [task for task in (*waiting, *ends) if not task.done()]
                if any(end.done() for end in ends) or left_s <= 0:
                    await self._dismiss(made, signal.SIGKILL)
                    raise OperatorError("a worker has not started; its own message says why")
                await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*waiting, *ends):
                task.cancel()
        return made

    async def replace(self, count: int) -> None:
        """Starts new workers, with the configuration as it is now, and lets the present ones finish what they do.

        Raises:
            OperatorError: the new ones do not start; the present ones go on.
        """
        present = [worker for worker in self._workers if not worker.dismissed]
        await self.start(count)
        for worker in present:
            worker.dismissed = True
            _tell(worker, signal.SIGUSR1)

    async def stop(self, patience_s: float) -> None:
        """Tells every worker to stop, and waits; beyond `patience_s` they are killed."""
        self._stopping = True
        for worker in self._workers:
            worker.dismissed = True
            _tell(worker, signal.SIGTERM)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        await self._dismiss(list(self._workers), signal.SIGKILL)

    def hurry(self) -> None:
        """Tells every worker to stop at once: a second signal."""
        for worker in self._workers:
            _tell(worker, signal.SIGTERM)

    async def _dismiss(self, workers: list[Worker], number: int) -> None:
        for worker in workers:
            worker.dismissed = True
            _tell(worker, number)
        for worker in workers:
            await worker.process.wait()
        while any(worker in self._workers for worker in workers):  # noqa: ASYNC110 - until they are buried
            await asyncio.sleep(0.01)

    async def _spawn(self) -> Worker:
        used = {worker.slot for worker in self._workers}
        slot = next((slot for slot in range(MOST_SLOTS) if slot not in used), None)
        if slot is None:
            raise OperatorError(f"there are {MOST_SLOTS} workers, some of which have yet to finish; try again later")
        gifts = self._gifts
        place = Place(slot, gifts.listener, gifts.limits, str(gifts.metrics), os.getpid())
        argv = [sys.executable, "-m", "gateway", "--config", str(gifts.config), "--worker", place.as_text()]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(gifts.listener, gifts.limits),
            start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to pass on
        )
        worker = Worker(slot, process)
        self._workers.add(worker)
        task = asyncio.get_running_loop().create_task(self._watch(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return worker

    async def _watch(self, worker: Worker) -> None:
        """Follows a worker from its first word to its end, and sees to a successor if that was an accident."""
        assert worker.process.stdout is not None  # noqa: S101
        while line := await worker.process.stdout.readline():
            if line == b"serving\n":
                worker.serving.set()
            worker.ready = worker.ready or line == b"ready\n"
        code = await worker.process.wait()
        worker.ready = False
        await self._settle(worker)
        self._workers.discard(worker)
        if worker.dismissed or self._stopping:
            return
        lived_s = time.monotonic() - worker.started
        self._failures = 0 if lived_s > _HEALTHY_S else self._failures + 1
        pause_s = min(_MOST_PAUSE_S, 2.0 ** (self._failures - 2)) if self._failures > 1 else 0.0
        self._log.write("error", "worker_lost", slot=worker.slot, code=code, lived_s=int(lived_s), next_in_s=pause_s)
        self._lost()
        await asyncio.sleep(pause_s)
        if not self._stopping:
            await self._spawn()

    async def _settle(self, worker: Worker) -> None:
        """Does for an ended worker what is left to do, as soon as that is possible: the disk may be full."""
        pause_s = 1.0
        while True:
            try:
                await asyncio.to_thread(self._bury, worker.slot)
                return
            except Exception as error:  # noqa: BLE001 - a successor must start, whatever it is
                self._log.write("error", "worker_not_settled", slot=worker.slot, error=type(error).__name__)
            if self._stopping:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(_HEALTHY_S, 2 * pause_s)


def _tell(worker: Worker, number: int) -> None:
    """Sends a signal, unless the process has ended."""
    if worker.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(number)
