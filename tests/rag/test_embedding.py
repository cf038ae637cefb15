"""Who goes first at the embedder. Not over HTTP: on a quick machine nobody sees the order from outside."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from rag.embedding import DIMENSIONS, Embedder, Priority
from tidegate.errors import Overloaded
from tidegate.store.documents import Owner

ONE, OTHER = Owner("acme", "one"), Owner("acme", "other")


class Slow:
    """A model that does one pass whenever it is allowed to, and remembers what it was given."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.began = threading.Event()
        self.passes: list[str] = []

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.passes.append(texts[0][:9])
        self.began.set()
        assert self.allowed.acquire(timeout=10)
        if texts[0].startswith("broken"):
            raise ValueError("a text that no model likes")
        return np.ones((len(texts), DIMENSIONS), np.float32)


def test_a_query_waits_for_one_pass_of_ingestion_at_most_and_a_call_goes_before_ingestion() -> None:
    async def main() -> list[str]:
        model = Slow()
        embedder = Embedder(model, None, "test")
        ingestion = asyncio.ensure_future(
            embedder.embed([f"ingestion {n} " * 300 for n in range(8)], Priority.INGESTION, ONE)
        )
        await asyncio.to_thread(model.began.wait, 10)
        call = asyncio.ensure_future(embedder.embed(["call"], Priority.CALL, ONE))
        query = asyncio.ensure_future(embedder.embed(["query"], Priority.QUERY, ONE))
        await asyncio.sleep(0)
        model.allowed.release(10)
        await asyncio.gather(ingestion, call, query)
        embedder.close()
        return model.passes

    assert asyncio.run(main()) == ["ingestion", "query", "call", *["ingestion"] * 7]


def test_whoever_leaves_is_not_embedded_and_a_failure_is_his_alone_whose_text_it_was() -> None:
    async def main() -> None:
        model = Slow()
        embedder = Embedder(model, None, "test")
        first = asyncio.ensure_future(embedder.embed(["first"], Priority.CALL, ONE))
        await asyncio.to_thread(model.began.wait, 10)
        leaving = asyncio.ensure_future(embedder.embed(["leaving"], Priority.CALL, ONE))
        broken = asyncio.ensure_future(embedder.embed(["broken"], Priority.CALL, ONE))
        last = asyncio.ensure_future(embedder.embed(["last"], Priority.CALL, ONE))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        model.allowed.release(10)
        assert (await first).shape == (await last).shape == (1, DIMENSIONS)
        with pytest.raises(ValueError, match="no model likes"):
            await broken
        assert model.passes == ["first", "broken", "last"]
        with pytest.raises(Overloaded):
            await embedder.embed(["x"] * 9000, Priority.CALL, ONE)
        embedder.close()

    asyncio.run(main())


def test_projects_take_turns_within_a_priority() -> None:
    async def main() -> list[str]:
        model = Slow()
        embedder = Embedder(model, None, "test")
        many = asyncio.ensure_future(
            embedder.embed([f"many-{n:03d} " * 300 for n in range(6)], Priority.INGESTION, ONE)
        )
        await asyncio.to_thread(model.began.wait, 10)
        few = asyncio.ensure_future(
            embedder.embed([f"few--{n:03d} " * 300 for n in range(2)], Priority.INGESTION, OTHER)
        )
        await asyncio.sleep(0)
        model.allowed.release(10)
        await asyncio.gather(many, few)
        embedder.close()
        return [name.partition("-")[0] for name in model.passes]

    order = asyncio.run(main())
    assert order.count("few") == 2 and max(at for at, name in enumerate(order) if name == "few") <= 4, order
