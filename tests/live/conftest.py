"""One running stack for the whole live tier."""

from collections.abc import Iterator

import pytest

from tests.live.stack import Up
from tidegate.local.stack import Running


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up"))
    yield made
    made.process.stop(30)


@pytest.fixture(scope="session")
def running(up: Up) -> Running:
    return up.wait()
