"""Both databases for tests of whole processes."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.tidegate.store.databases import BOTH, postgres_database


@pytest.fixture(params=BOTH)
def store_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """None is the process's own SQLite file."""
    if request.param == "sqlite":
        yield None
        return
    context = postgres_database()
    with asyncio.Runner() as runner:
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))
