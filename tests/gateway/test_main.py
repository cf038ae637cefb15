"""Starting a gateway process: what stands in the way is named."""

import sys
from typing import Any

import pytest

from tests.stand import Process, free_port


@pytest.mark.parametrize("taken", ["port", "management_port"])
def test_a_port_in_use_is_named(own_gateway: Any, taken: str) -> None:
    first = own_gateway()
    env = {"TIDEGATE_JOURNAL__DIRECTORY": str(first.folder / "other")}
    env["TIDEGATE_GATEWAY__" + ("MANAGEMENT_PORT" if taken == "port" else "PORT")] = str(free_port())
    second = Process([sys.executable, "-m", "gateway", "--config", str(first.config)], first.folder / "second.log", env)
    assert second.popen.wait(20) == 1
    assert f"cannot start: gateway.{taken}: 127.0.0.1:" in second.text() and "in use" in second.text()


def test_start_up_and_stop_are_logged_and_clean(own_gateway: Any) -> None:
    gateway = own_gateway()
    assert gateway.process.stop() == 0
    assert [line["event"] for line in gateway.log_lines()] == ["serving", "draining", "stopped"]
