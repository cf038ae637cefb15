"""A pool of killable processes for expensive work: limited in number, time and memory, shared fairly between projects.

A job that times out, is cancelled (disconnect, deadline) or belongs to a closing pool has its process killed, so nothing goes on
computing for nobody. Workers are forks of one process that has everything imported (`forking.py`); that one starts with the
first job. They run at a lower priority than the event loop that waits for them, unless `PoolLimits.niceness` says otherwise.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tidegate.serving.fair_slots import FairSlots, Project, SlotLimits
from tidegate.serving.forking import JOB, RESULT, Status

Buffer = bytes | bytearray | memoryview
_START_TIMEOUT_S = 30.0
_READ_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of a pool; sizes in bytes, times in seconds."""

    processes: int
    memory_bytes: int
    """Address space of one process."""
    timeout_s: float
    """Time of one job, without waiting for its turn."""
    max_jobs: int = 200
    """Jobs after which a process is replaced."""
    max_waiting: int = 16
    """Waiting jobs of one project."""
    max_waiting_bytes: int = 67_108_864
    """Bytes of one project's waiting jobs."""
    max_result_bytes: int = 268_435_456
    max_growth_bytes: int = 33_554_432
    """A process that has grown by more than this after a job is replaced."""
    niceness: int = 10
    """0 is the priority of the event loop that waits."""


class Failure(Enum):
    """Why a job has no result."""

    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out of memory"
    DIED = "died"
    """The process ended: killed, or crashed."""
    DEFECT = "defect"
    """The handler raised an exception; `JobFailed.detail` names its type."""


class JobFailed(Exception):
    """A job ended without a result; its process has been killed."""

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(failure.value, detail)
        self.failure = failure
        self.detail = detail


class ProcessPool:
    """Runs jobs of one `target` (`module:function`, see `forking.py`); `close` when done."""

    def __init__(self, target: str, limits: PoolLimits, what: str = "large requests") -> None:
        """`what` names jobs in the error of a project that has too many of them waiting."""
        self._target = target
        self._limits = limits
        per_project = max(1, limits.processes - 1)
        self._slots = FairSlots(
            SlotLimits(limits.processes, per_project, limits.max_waiting, limits.max_waiting_bytes), what
        )
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._forker: asyncio.Task[_Forker] | None = None
        self._closed = False

    async def run(self, project: Project, head: bytes, body: Buffer = b"", *, attempts: int = 1) -> tuple[bytes, bytes]:
        """The result of `TARGET(head, body)`. A job whose process dies is tried `attempts` times.

        Cancelling kills the process.

        Raises:
            RateLimited: the project already has too many jobs waiting.
            JobFailed: no result.
        """
        await self._slots.acquire(project, len(head) + len(body))
        try:
            while True:
                attempts -= 1
                try:
                    return await self._attempt(head, body)
                except JobFailed as error:
                    if error.failure is not Failure.DIED or attempts <= 0 or self._closed:
                        raise
        finally:
            self._slots.release(project)

    async def close(self) -> None:
        """Kill every process; jobs that are running fail."""
        self._closed = True
        for worker in self._busy:
            worker.kill()
        while self._idle:
            self._idle.pop().close()
        forker, self._forker = self._forker, None
        if forker is not None:
            with contextlib.suppress(JobFailed, OSError):
                await (await forker).close()

    async def _attempt(self, head: bytes, body: Buffer) -> tuple[bytes, bytes]:
        worker = self._idle_worker() or await self._new_worker()
        self._busy.add(worker)
        finished = False
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                status, ends, head, result = await worker.ask(head, body, self._limits.max_result_bytes)
            finished = not ends
        except TimeoutError as error:
            raise JobFailed(Failure.TIMEOUT, f"{self._limits.timeout_s:g} s") from error
        except OSError as error:
            raise JobFailed(Failure.DIED) from error
        finally:
            self._busy.discard(worker)
            if finished and not self._closed:
                self._idle.append(worker)
            else:
                worker.close()
        if status is Status.OUT_OF_MEMORY:
            raise JobFailed(Failure.OUT_OF_MEMORY)
        if status is Status.DEFECT:
            raise JobFailed(Failure.DEFECT, head.decode())
        return head, result

    def _idle_worker(self) -> "_Worker | None":
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.close()
        return None

    async def _new_worker(self) -> "_Worker":
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                forker = await self._running_forker()
                return await forker.fork()
        except (OSError, TimeoutError) as error:
            raise JobFailed(Failure.DIED, "no process could be started") from error

    async def _running_forker(self) -> "_Forker":
        if self._closed:
            raise OSError("the pool is closed")
        task = self._forker
        if task is not None and task.done():
            if task.cancelled() or task.exception():
                task = None
            elif not task.result().is_alive():
                task.result().forget()
                task = None
        if task is None:
            task = self._forker = asyncio.ensure_future(_Forker.start(self._target, self._limits))
        return await asyncio.shield(task)


class _Forker:
    """The process that forks workers, and the socket to it."""

    def __init__(self, process: Process, orders: socket.socket) -> None:
        self._process = process
        self._orders = orders

    @classmethod
    async def start(cls, target: str, limits: PoolLimits) -> "_Forker":
        """Start the process; it answers orders once it has imported `target`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        numbers = (limits.memory_bytes, limits.max_jobs, limits.max_growth_bytes, limits.niceness)
        argv = [sys.executable, "-m", "tidegate.serving.forking", target, *map(str, numbers)]
        env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=theirs.fileno(), stdout=DEVNULL, env=env, start_new_session=True
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def is_alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._process.returncode is None and self._orders.fileno() >= 0

    async def fork(self) -> "_Worker":
        """A new worker.

        Raises:
            OSError: the process is gone; `is_alive` is false then.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker = _Worker(ours, self._kill)
        try:
            with theirs:
                socket.send_fds(self._orders, [b"fork"], [theirs.fileno()])
            await worker.greet()
        except OSError:
            self._orders.close()
            worker.close()
            raise
        except BaseException:
            worker.close()
            raise
        return worker

    def forget(self) -> None:
        """Close the socket, at whose end the process ends."""
        self._orders.close()

    async def close(self) -> None:
        """Kill the process and, with it, every worker."""
        self.forget()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            self._orders.send(str(pid).encode())


class _Worker:
    """One process, as seen over its socket."""

    def __init__(self, channel: socket.socket, kill: Callable[[int], None]) -> None:
        self._channel = channel
        self._kill = kill
        self.pid = 0

    async def greet(self) -> None:
        """Wait until the process serves."""
        self.pid = int.from_bytes(await self._read(4))

    def is_alive(self) -> bool:
        """Whether an idle worker still waits for jobs."""
        try:
            return bool(self._channel.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def ask(self, head: bytes, body: Buffer, max_result_bytes: int) -> tuple[Status, bool, bytes, bytes]:
        """Status, whether the worker ends now, head and body of the result.

        Raises:
            OSError: the process ended.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._channel, JOB.pack(len(head), len(body)) + head)
        if body:
            await loop.sock_sendall(self._channel, body)
        status, ends, head_size, body_size = RESULT.unpack(await self._read(RESULT.size))
        if head_size + body_size > max_result_bytes:
            raise OSError("result too large")
        return Status(status), ends, await self._read(head_size), await self._read(body_size)

    def kill(self) -> None:
        """Kill the process; a pending `ask` fails."""
        if self.pid:
            self._kill(self.pid)

    def close(self) -> None:
        """Kill the process, if it has not ended; nothing may be pending."""
        if self._channel.fileno() >= 0:
            self._channel.close()
            self.kill()

    async def _read(self, size: int) -> bytes:
        loop, pieces, left = asyncio.get_running_loop(), [], size
        while left:
            piece = await loop.sock_recv(self._channel, min(left, _READ_BYTES))
            if not piece:
                raise ConnectionResetError("the process ended")
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
