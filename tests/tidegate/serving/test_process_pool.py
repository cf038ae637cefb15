"""The pool of killable processes, with real ones: what one job costs is bounded, and no project waits for another's."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tidegate.errors import RateLimited
from tidegate.serving.process_pool import Failure, JobFailed, PoolLimits, ProcessPool

TARGET = "tests.tidegate.serving.jobs:run_and_show_process"
A, B, C = ("acme", "a"), ("acme", "b"), ("other", "a")


def with_pool(work: Callable[[ProcessPool], Awaitable[Any]], **limits: Any) -> Any:
    async def run() -> Any:
        usual = {"processes": 1, "memory_bytes": 268_435_456, "timeout_s": 20}
        pool = ProcessPool(TARGET, PoolLimits(**{**usual, **limits}))
        try:
            return await asyncio.wait_for(work(pool), 60)
        finally:
            await pool.close()

    return asyncio.run(run())


def started_by(pid: int) -> set[int]:
    """The living processes of pools that `pid` has started."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"tidegate.serving.forking" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def forkers() -> set[int]:
    return started_by(os.getpid())


def workers() -> set[int]:
    return set().union(*map(started_by, forkers()))


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


async def pid_of(pool: ProcessPool) -> int:
    return int((await pool.run(A, b"echo"))[0])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.005)


def touch(path: bytes) -> None:
    Path(os.fsdecode(path)).touch()


def is_gone(pid: int) -> Callable[[], bool]:
    return lambda: state_of(pid) in "ZX"


@asynccontextmanager
async def running(pool: ProcessPool, head: bytes, body: bytes = b"", project: Any = A) -> AsyncIterator[Any]:
    """A job that has begun, and the process it runs in."""
    pid = int((await pool.run(project, b"echo"))[0])
    task = asyncio.ensure_future(pool.run(project, head, body))
    await until(lambda: bool(pool._busy) and (state_of(pid) == "R" or head == b"wait"))
    yield task, pid
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_job_runs_in_another_process_of_lower_priority() -> None:
    async def work(pool: ProcessPool) -> None:
        body = bytes(range(256)) * 40_000
        head, result = await pool.run(A, b"echo", body)
        assert int(head) != os.getpid() and result == body[::-1]
        assert os.getpriority(os.PRIO_PROCESS, int(head)) > os.getpriority(os.PRIO_PROCESS, 0)
        assert await pid_of(pool) == int(head)

    with_pool(work)


def test_a_job_that_takes_too_long_is_killed_and_the_next_runs() -> None:
    async def work(pool: ProcessPool) -> None:
        pid = await pid_of(pool)
        with pytest.raises(JobFailed) as caught:
            await pool.run(A, b"spin")
        assert caught.value.failure is Failure.TIMEOUT
        await until(is_gone(pid))
        assert await pid_of(pool) != pid

    with_pool(work, timeout_s=0.3)


def test_cancelling_kills_the_process() -> None:
    async def work(pool: ProcessPool) -> None:
        async with running(pool, b"spin") as (task, pid):
            task.cancel()
            await until(is_gone(pid))
        assert await pid_of(pool) != pid

    with_pool(work)


def test_closing_kills_every_process_and_fails_what_runs() -> None:
    async def work(pool: ProcessPool) -> None:
        async with running(pool, b"spin") as (task, pid):
            await pool.close()
            with pytest.raises(JobFailed):
                await task
            await until(is_gone(pid))
        with pytest.raises(JobFailed):
            await pool.run(A, b"echo")

    with_pool(work)
    assert workers() == forkers() == set()


def test_a_process_that_dies_is_one_error_or_one_retry(tmp_path: Path) -> None:
    async def work(pool: ProcessPool) -> None:
        with pytest.raises(JobFailed) as caught:
            await pool.run(A, b"die")
        assert caught.value.failure is Failure.DIED
        async with running(pool, b"spin") as (task, pid):
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(JobFailed) as caught:
                await task
        assert caught.value.failure is Failure.DIED
        assert (await pool.run(A, b"die once", bytes(tmp_path / "mark"), attempts=2))[1] == b"survived"

    with_pool(work)


def test_an_idle_process_that_was_killed_is_replaced() -> None:
    async def work(pool: ProcessPool) -> None:
        first = await pid_of(pool)
        os.kill(first, signal.SIGKILL)
        await until(is_gone(first))
        assert await pid_of(pool) != first

    with_pool(work)


def test_the_process_that_forks_is_replaced_when_killed() -> None:
    async def work(pool: ProcessPool) -> None:
        first = await pid_of(pool)
        (forker,) = forkers()
        os.kill(forker, signal.SIGKILL)
        await until(is_gone(first))
        assert (await pool.run(A, b"echo", b"ab", attempts=2))[1] == b"ba"

    with_pool(work)


def test_memory_is_bounded_and_a_process_that_has_grown_is_replaced() -> None:
    async def work(pool: ProcessPool) -> None:
        first = await pid_of(pool)
        with pytest.raises(JobFailed) as caught:
            await pool.run(A, b"fill")
        assert caught.value.failure is Failure.OUT_OF_MEMORY
        second = await pid_of(pool)
        assert second != first
        await pool.run(A, b"grow")
        assert await pid_of(pool) != second

    with_pool(work)


def test_a_process_is_replaced_after_some_jobs() -> None:
    async def work(pool: ProcessPool) -> None:
        pids = [await pid_of(pool) for _ in range(4)]
        assert pids[0] == pids[1] != pids[2] == pids[3]

    with_pool(work, max_jobs=2)


def test_a_handler_that_raises_is_named_not_quoted() -> None:
    async def work(pool: ProcessPool) -> None:
        with pytest.raises(JobFailed) as caught:
            await pool.run(A, b"4111111111111111")
        assert (caught.value.failure, caught.value.detail) == (Failure.DEFECT, "KeyError")

    with_pool(work)


def test_projects_take_turns_and_none_holds_every_process(tmp_path: Path) -> None:
    async def work(pool: ProcessPool) -> None:
        held = bytes(tmp_path / "go")
        done: list[str] = []

        async def job(name: str, project: Any, head: bytes = b"echo", body: bytes = b"") -> None:
            await pool.run(project, head, body)
            done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(job("a0", A, b"wait", held))
            for number in range(1, 4):
                group.create_task(job(f"a{number}", A))
            await asyncio.sleep(0)
            await job("b", B)
            assert done == ["b"], "one process is left for others"
            other = bytes(tmp_path / "other")
            group.create_task(job("c0", C, b"wait", other))
            await asyncio.sleep(0)
            group.create_task(job("b1", B))
            await asyncio.sleep(0)
            touch(held)
            await until(lambda: len(done) == 6)
            assert done.index("b1") < done.index("a3"), "in turn, not in the order in which they came"
            touch(other)

    with_pool(work, processes=2)


def test_what_waits_of_one_project_is_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    async def work(pool: ProcessPool) -> None:
        held = tmp_path / "go"
        async with running(pool, b"wait", bytes(held)) as (first, _):
            waiting = [asyncio.ensure_future(pool.run(A, b"echo", b"x" * 600)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(RateLimited, match="2 large requests waiting"):
                await pool.run(A, b"echo")
            waiting[1].cancel()
            await asyncio.sleep(0)
            with pytest.raises(RateLimited):
                await pool.run(A, b"echo", b"x" * 900)
            third = asyncio.ensure_future(pool.run(B, b"echo", b"x" * 600))
            held.touch()
            await asyncio.gather(first, waiting[0], third)

    with_pool(work, max_waiting=2, max_waiting_bytes=1300)


def test_the_loop_is_not_held_while_a_job_runs(tmp_path: Path) -> None:
    async def work(pool: ProcessPool) -> None:
        async with running(pool, b"spin", b"x" * 10_000_000):
            turns, until_s = 0, time.monotonic() + 0.2
            while time.monotonic() < until_s:
                turns += 1
                await asyncio.sleep(0)
            assert turns > 100

    with_pool(work)
