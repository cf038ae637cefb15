"""Fixtures every test may use, and the rules every test obeys: clean environment, loopback only, no skips in CI."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.knowledge_stand import Knowledge
from tests.stand import COMPILED, ROOT, Fake, Gateway, packages_from

# Machines are noisy; time is no property of what is tested here.
settings.register_profile("tidegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidegate")

_LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    """See `make compiled`."""
    parser.addoption("--compiled", action="store_true", help="start the services from build/compiled, not from source")


def pytest_configure(config: pytest.Config) -> None:
    """Every process that a test starts looks for packages there first; this process has its own by now."""
    if config.getoption("--compiled"):
        os.environ |= packages_from(COMPILED, ROOT)


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> None:
    """No setting of the developer's reaches a test."""
    for name in [
        name for name in os.environ if name.startswith(("TIDEGATE_", "OPENAI_")) and name != "TIDEGATE_REQUIRE_ALL"
    ]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches out of this machine fails."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            raise AssertionError(f"a test connects to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the gateways that it used hold no task, request or dead socket, and this process no task."""
    shared = request.getfixturevalue("gateway") if "gateway" in request.fixturenames else None
    yield
    assert shared is None or shared.left() == []
    pending = [task for task in asyncio.tasks._all_tasks if not task.done()]  # type: ignore[attr-defined]
    assert pending == [], "tasks of this test's own"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where everything is required, a skipped test is a failed test."""
    report = yield
    if report.skipped and os.environ.get("TIDEGATE_REQUIRE_ALL") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where every test is required: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """One scriptable upstream for the whole run; scripts are named per test."""
    made = Fake(tmp_path_factory.mktemp("fake"))
    yield made
    made.process.stop()


@pytest.fixture(scope="session")
def gateway(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway with the default policy in front of `fake`."""
    made = Gateway(tmp_path_factory.mktemp("gateway"), [fake.url])
    yield made
    made.process.stop()


@pytest.fixture
def own_gateway(tmp_path: Path, fake: Fake) -> Iterator[Any]:
    """Builds gateways of the test's own; all are stopped at its end."""
    made: list[Gateway] = []

    def build(replicas: list[str] | None = None, **options: Any) -> Gateway:
        folder = tmp_path / f"gateway{len(made)}"
        folder.mkdir()
        made.append(Gateway(folder, replicas if replicas is not None else [fake.url], **options))
        return made[-1]

    yield build
    left = {gateway.folder.name: gateway.left() for gateway in made if gateway.process.popen.poll() is None}
    for gateway in made:
        gateway.process.stop()
    assert {name: found for name, found in left.items() if found} == {}
    complaints = ("was never retrieved", "was destroyed but it is pending", "was never awaited")
    assert [gateway.folder.name for gateway in made if any(text in gateway.process.text() for text in complaints)] == []


@pytest.fixture(scope="session")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knowledge]:
    """One knowledge service for the tests that share it."""
    made = Knowledge(tmp_path_factory.mktemp("knowledge"))
    yield made
    made.process.stop()
