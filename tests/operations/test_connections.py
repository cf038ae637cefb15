"""A gateway with few descriptors, and clients that only open connections: everything else goes on."""

import socket
from contextlib import ExitStack
from typing import Any

import pytest

from tests.gateway.test_relay import resident_mb
from tests.stand import http, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]
DESCRIPTORS = 512
LIMIT = (DESCRIPTORS - 128) // 2
IDLE = 1200
HALF = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


def opened(stack: ExitStack, port: int, count: int, first: bytes = b"") -> None:
    """So many connections that are kept open here, whatever becomes of them there."""
    for _ in range(count):
        made = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        if first:
            try:
                made.sendall(first)
            except ConnectionError:
                continue  # closed already, in favour of a later one


@pytest.mark.parametrize("first", [b"", HALF], ids=["silent", "half a head"])
def test_thousands_of_idle_connections_stop_nobody(own_gateway: Any, first: bytes) -> None:
    gateway = own_gateway(within=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"))
    before = resident_mb(gateway)
    with ExitStack() as stack:
        with gateway.open_stream(max_tokens=400, fake_pace_ms=20) as answer:
            pieces = answer.iter_raw()
            assert next(pieces)
            for _ in range(4):
                opened(stack, gateway.port, IDLE // 4, first)
                assert gateway.chat(max_tokens=1).status_code == 200
                assert http.get(f"{gateway.management_url}/readyz").status_code == 200
                assert http.get(f"{gateway.url}/readyz").status_code == 200
        opened(stack, gateway.management_port, 200, first)
        assert http.get(f"{gateway.management_url}/readyz").status_code == 200
        done = gateway.chat(max_tokens=1)
        assert gateway.usage_of(done.headers["x-tidegate-request-id"])["outcome"] == "ok", "and it is written down"
        assert resident_mb(gateway) - before < 20
    (told, *_) = gateway.log_lines("connections_full")
    assert told["limit"] == LIMIT
    assert not gateway.log_lines("journal_not_written") and not gateway.log_lines("defect")


def test_an_idle_connection_costs_little_memory(own_gateway: Any) -> None:
    gateway = own_gateway()
    before, count = resident_mb(gateway), 2000
    with ExitStack() as stack:
        opened(stack, gateway.port, count)
        assert gateway.chat(max_tokens=1).status_code == 200
        each_kb = (resident_mb(gateway) - before) * 1024 / count
        assert each_kb < 8, f"{each_kb:.1f} KiB"
    print(f"{each_kb:.1f} KiB an idle connection")
    wait_until(lambda: gateway.chat(max_tokens=1).status_code == 200, 5, "the gateway to go on")
