"""The pool of parser processes: limited in time and memory, recycled, and nothing breaks with one."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rag.parsing import ParserPool, Unreadable
from tidegate.config.settings import ParserPoolSettings, PluginSpec

SPECS = [PluginSpec(type=name) for name in ("text", "html")]
TEXT, HTML = SPECS


def with_pool(work: Callable[[ParserPool], Awaitable[Any]], **settings: Any) -> Any:
    async def run() -> Any:
        pool = ParserPool(SPECS, ParserPoolSettings(**{"processes": 1, **settings}))
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def pid_of(pool: ParserPool) -> int:
    return int(pool._idle[0]._process.pid)


def test_a_document_is_read_in_another_process() -> None:
    async def work(pool: ParserPool) -> None:
        assert (await pool.parse(TEXT, b"hello")).text == "hello"
        assert pid_of(pool) != os.getpid()

    with_pool(work)


def test_a_process_is_replaced_after_some_documents() -> None:
    async def work(pool: ParserPool) -> None:
        await pool.parse(TEXT, b"one")
        first = pid_of(pool)
        await pool.parse(TEXT, b"two")
        assert pool._idle == []
        await pool.parse(TEXT, b"three")
        assert pid_of(pool) != first

    with_pool(work, documents=2)


def test_a_document_that_takes_too_long_is_given_up_and_the_next_is_read() -> None:
    slow = b"<p>x</p>" * 2_000_000

    async def work(pool: ParserPool) -> None:
        await pool.parse(TEXT, b"warm")
        with pytest.raises(Unreadable, match="longer than the 1 s allowed"):
            await pool.parse(HTML, slow)
        assert (await pool.parse(TEXT, b"next")).text == "next"

    with_pool(work, timeout_s=1)


def test_a_document_that_needs_too_much_memory_is_given_up_and_the_next_is_read() -> None:
    greedy = b"<p>" + b"word <b>word</b> " * 1_500_000

    async def work(pool: ParserPool) -> None:
        with pytest.raises(Unreadable, match="more memory than is allowed"):
            await pool.parse(HTML, greedy)
        assert (await pool.parse(TEXT, b"next")).text == "next"

    with_pool(work, memory_bytes=268_435_456)


def test_a_process_that_is_killed_costs_its_document_only() -> None:
    async def work(pool: ParserPool) -> None:
        await pool.parse(TEXT, b"warm")
        reading = asyncio.ensure_future(pool.parse(HTML, b"<p>x</p>" * 500_000))
        pid = pid_of(pool)
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unreadable, match="ended the process"):
            await reading
        assert (await pool.parse(TEXT, b"next")).text == "next"

    with_pool(work)


def test_a_caller_who_gives_up_leaves_no_process_behind() -> None:
    async def work(pool: ParserPool) -> None:
        await pool.parse(TEXT, b"warm")
        pid = pid_of(pool)
        reading = asyncio.ensure_future(pool.parse(HTML, b"<p>x</p>" * 500_000))
        await asyncio.sleep(0.2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    with_pool(work)


def test_kinds_that_nobody_reads_are_named_with_those_that_somebody_does() -> None:
    async def work(pool: ParserPool) -> None:
        with pytest.raises(Unreadable, match=r"'\.exe' are not read here; these are: \.htm, \.html, "):
            pool.kind_of("a.pdf.exe")
        assert pool.kind_of("A.HTML")[1] == "text/html"

    with_pool(work)
