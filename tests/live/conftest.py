"""One running stack for the whole live tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.stack import Up
from tidegate.local.stack import Running

_MOST_S = 700  # whichever test comes first waits for the stack, and on a new machine for the model's environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(_MOST_S))


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up"))
    yield made
    made.process.stop(30)


@pytest.fixture(scope="session")
def running(up: Up) -> Running:
    return up.wait()
