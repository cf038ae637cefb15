"""Stopping: readiness first, then no new requests, then the end of those that took too long. Real processes, real signals."""

import json
import signal
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, events_of, http, sse, stream_steps, wait_until

pytestmark = pytest.mark.services


def stopping(own_gateway: Any, *, delay_s: float, grace_s: float) -> Gateway:
    """A gateway that takes so long to stop."""
    made: Gateway = own_gateway(settings={"gateway": {"drain_delay_s": delay_s, "shutdown_grace_s": grace_s}})
    return made


def terminate(gateway: Gateway) -> None:
    gateway.process.popen.send_signal(signal.SIGTERM)


def ready(gateway: Gateway) -> int:
    return http.get(f"{gateway.management_url}/readyz").status_code


class Reader(threading.Thread):
    """Reads a stream to its end in a thread; `began` is set with the first byte."""

    def __init__(self, gateway: Gateway, path: str = "/v1/chat/completions", **fields: Any) -> None:
        super().__init__()
        self.gateway, self.path, self.fields = gateway, path, fields
        self.began, self.text, self.status = threading.Event(), "", 0
        self.start()

    def run(self) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, **self.fields}
        with httpx.stream(
            "POST", self.gateway.url + self.path, json=body, headers=self.gateway.headers, timeout=30
        ) as answer:
            self.status = answer.status_code
            for text in answer.iter_text():
                self.text += text
                self.began.set()

    def end(self) -> str:
        self.join(20)
        assert not self.is_alive()
        return self.text


def test_readiness_fails_first_while_everything_is_served(own_gateway: Any) -> None:
    gateway = stopping(own_gateway, delay_s=1.5, grace_s=5)
    assert ready(gateway) == 200 and "connection" not in gateway.chat(max_tokens=1).headers
    terminate(gateway)
    wait_until(lambda: ready(gateway) == 503, 1, "readiness to fail")
    assert http.get(f"{gateway.management_url}/readyz").json()["reason"] == "stopping"
    assert http.get(f"{gateway.management_url}/healthz").status_code == 200, "it is alive, and must not be killed"
    answer = gateway.chat(max_tokens=1)
    assert answer.status_code == 200 and answer.headers["connection"] == "close"
    assert gateway.process.popen.wait(10) == 0


def test_then_new_requests_are_refused_and_running_ones_finish(own_gateway: Any, fake: Fake) -> None:
    gateway = stopping(own_gateway, delay_s=0, grace_s=10)
    fake.script(
        "slow-end", *stream_steps(sse(chat_chunk("a")), sse(chat_chunk("b", finish="stop"), "[DONE]"), pause_ms=1200)
    )
    reader = Reader(gateway, stream=True, fake_script="slow-end")
    assert reader.began.wait(5)
    terminate(gateway)
    wait_until(lambda: ready(gateway) == 503, 1, "readiness to fail")
    for path, method in (
        ("/v1/chat/completions", "POST"),
        ("/v1/messages", "POST"),
        ("/v1/models", "GET"),
        ("/mcp", "POST"),
    ):
        answer = http.request(method, gateway.url + path, headers=gateway.headers, json={"model": "m", "messages": []})
        assert answer.status_code == 503, path
        assert answer.headers["retry-after"] == "1" and answer.headers["connection"] == "close"
        assert answer.json()["error"]["code"] == "stopping" and answer.headers["x-should-retry"] == "true"
    assert events_of(reader.end())[-1] == "[DONE]" and reader.status == 200
    assert gateway.process.popen.wait(10) == 0
    assert [row["outcome"] for row in gateway.usage()] == ["ok"], "shipped before the process ended"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_what_is_left_at_the_deadline_gets_a_last_event_that_says_so(own_gateway: Any, fake: Fake, path: str) -> None:
    gateway = stopping(own_gateway, delay_s=0, grace_s=0.5)
    first = sse(chat_chunk("a")) if path.endswith("completions") else 'event: ping\ndata: {"type":"ping"}\n\n'
    fake.script("never-ends", {"send": STREAM_HEAD}, {"send": chunked(first)}, {"stall": True})
    reader = Reader(gateway, path, stream=True, fake_script="never-ends")
    assert reader.began.wait(5)
    terminate(gateway)
    last = [line for line in reader.end().splitlines() if line.startswith("data: ")][-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert "stopped" in error["message"] and (error.get("code") == "stopping" or error["type"] == "overloaded_error")
    assert gateway.process.popen.wait(5) == 0
    (row,) = gateway.usage()
    assert row["outcome"] == "interrupted" and row["http_status"] == 200
    assert fake.truth()["open_requests"] == 0, "the model server was told"


def test_a_whole_answer_that_takes_too_long_is_refused_at_the_deadline(own_gateway: Any, fake: Fake) -> None:
    gateway = stopping(own_gateway, delay_s=0, grace_s=0.5)
    reader = Reader(gateway, fake_pace_ms=60_000)
    wait_until(lambda: fake.truth()["open_requests"] == 1, 5, "the request")
    terminate(gateway)
    assert json.loads(reader.end())["error"]["code"] == "stopping" and reader.status == 503
    assert gateway.process.popen.wait(5) == 0


def test_a_second_signal_does_not_wait(own_gateway: Any, fake: Fake) -> None:
    gateway = stopping(own_gateway, delay_s=60, grace_s=60)
    fake.script("never-ends-either", {"send": STREAM_HEAD}, {"send": chunked(sse(chat_chunk("a")))}, {"stall": True})
    reader = Reader(gateway, stream=True, fake_script="never-ends-either")
    assert reader.began.wait(5)
    began = time.monotonic()
    for _ in range(2):
        terminate(gateway)
        time.sleep(0.3)  # two signals at once are one
    assert '"stopping"' in reader.end()
    assert gateway.process.popen.wait(10) == 0 and time.monotonic() - began < 10


def test_idle_connections_do_not_hold_up_the_end(own_gateway: Any) -> None:
    gateway = stopping(own_gateway, delay_s=0, grace_s=30)
    with (
        socket.create_connection(("127.0.0.1", gateway.port)) as idle,
        socket.create_connection(("127.0.0.1", gateway.port)),
    ):
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        terminate(gateway)
        assert gateway.process.popen.wait(5) == 0
        assert idle.recv(65536) == b""
