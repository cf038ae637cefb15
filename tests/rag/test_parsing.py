"""The pool of parser processes: limited in time and memory, recycled, and nothing breaks with one."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from guardrails.engine.policy import build_policy
from rag.document import ParsedDocument
from rag.parsing import ParserPool, Unreadable
from tests.stand import wait_until
from tidegate.config.resources import Policy
from tidegate.config.settings import ParserPoolSettings, PluginSpec
from tidegate.errors import RateLimited
from tidegate.store.documents import Owner

SPECS = [PluginSpec(type=name) for name in ("text", "html")]
TEXT, HTML = SPECS
ONE, OTHER = Owner("acme", "one"), Owner("acme", "other")
OPEN = build_policy(Policy(name="open"))
STRICT = build_policy(Policy(name="strict", guardrails=[PluginSpec(type="pan")]))


def with_pool(work: Callable[[ParserPool], Awaitable[Any]], **settings: Any) -> Any:
    async def run() -> Any:
        pool = ParserPool(SPECS, ParserPoolSettings(**{"processes": 1, **settings}))
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def wait_until_ended(pid: int) -> None:
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the process")


async def parse(pool: ParserPool, spec: PluginSpec, data: bytes, owner: Owner = ONE) -> ParsedDocument:
    report, document = await pool.read(owner, spec, OPEN, data)
    assert report.refusal is None
    return msgspec.msgpack.decode(document, type=ParsedDocument)


def idle(pool: ParserPool) -> list[Any]:
    """Processes that wait for a document."""
    return pool._pool._idle


def pid_of(pool: ParserPool) -> int:
    return int(idle(pool)[0].pid)


def test_a_document_is_read_in_another_process() -> None:
    async def work(pool: ParserPool) -> None:
        assert (await parse(pool, TEXT, b"hello")).text == "hello"
        assert pid_of(pool) != os.getpid()

    with_pool(work)


def test_a_process_is_replaced_after_some_documents() -> None:
    async def work(pool: ParserPool) -> None:
        await parse(pool, TEXT, b"one")
        first = pid_of(pool)
        await parse(pool, TEXT, b"two")
        assert idle(pool) == []
        await parse(pool, TEXT, b"three")
        assert pid_of(pool) != first

    with_pool(work, documents=2)


def test_a_document_that_takes_too_long_is_given_up_and_the_next_is_read() -> None:
    slow = b"<p>x</p>" * 2_000_000

    async def work(pool: ParserPool) -> None:
        await parse(pool, TEXT, b"warm")
        with pytest.raises(Unreadable, match="longer than the 1 s allowed"):
            await parse(pool, HTML, slow)
        assert (await parse(pool, TEXT, b"next")).text == "next"

    with_pool(work, timeout_s=1)


def test_a_document_that_needs_too_much_memory_is_given_up_and_the_next_is_read() -> None:
    greedy = b"<p>" + b"word <b>word</b> " * 1_500_000

    async def work(pool: ParserPool) -> None:
        with pytest.raises(Unreadable, match="more memory than is allowed"):
            await parse(pool, HTML, greedy)
        assert (await parse(pool, TEXT, b"next")).text == "next"

    with_pool(work, memory_bytes=268_435_456)


def test_a_process_that_is_killed_costs_its_document_only() -> None:
    async def work(pool: ParserPool) -> None:
        await parse(pool, TEXT, b"warm")
        reading = asyncio.ensure_future(parse(pool, HTML, b"<p>x</p>" * 500_000))
        pid = pid_of(pool)
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unreadable, match="ended the process"):
            await reading
        assert (await parse(pool, TEXT, b"next")).text == "next"

    with_pool(work)


def test_a_caller_who_gives_up_leaves_no_process_behind() -> None:
    async def work(pool: ParserPool) -> None:
        await parse(pool, TEXT, b"warm")
        pid = pid_of(pool)
        reading = asyncio.ensure_future(parse(pool, HTML, b"<p>x</p>" * 500_000))
        await asyncio.sleep(0.2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.to_thread(wait_until_ended, pid)

    with_pool(work)


def test_kinds_that_nobody_reads_are_named_with_those_that_somebody_does() -> None:
    async def work(pool: ParserPool) -> None:
        with pytest.raises(Unreadable, match=r"'\.exe' are not read here; these are: \.htm, \.html, "):
            pool.kind_of("a.pdf.exe")
        assert pool.kind_of("A.HTML")[1] == "text/html"

    with_pool(work)


def test_a_document_is_screened_where_it_is_read() -> None:
    async def work(pool: ParserPool) -> None:
        report, document = await pool.read(ONE, TEXT, STRICT, b"card 4111 1111 1111 1111")
        assert report.refusal and document == b"" and [verdict.findings for verdict in report.verdicts] == [1]

    with_pool(work)


def test_screening_is_ended_by_the_time_limit() -> None:
    digits = b"4000 0001 " * 3_000_000

    async def work(pool: ParserPool) -> None:
        await parse(pool, TEXT, b"warm")
        with pytest.raises(Unreadable, match=r"longer than the 1 s allowed|more memory"):
            await pool.read(ONE, TEXT, STRICT, digits)
        assert (await parse(pool, TEXT, b"next")).text == "next"

    with_pool(work, timeout_s=1)


def test_a_project_neither_holds_every_process_nor_waits_with_more_than_a_few_files() -> None:
    slow = b"<p>x</p>" * 2_000_000

    async def work(pool: ParserPool) -> None:
        await parse(pool, TEXT, b"warm")
        held = [asyncio.ensure_future(parse(pool, HTML, slow)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited):
            await parse(pool, TEXT, b"one too many")
        assert (await parse(pool, TEXT, b"beside", OTHER)).text == "beside"
        assert not any(reading.done() for reading in held)
        for reading in held:
            reading.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    with_pool(work, processes=2)
