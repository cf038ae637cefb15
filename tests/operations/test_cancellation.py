"""A caller who leaves stops the model server: on every route, in every state, and what was generated is written down."""

import socket
import time
from typing import Any

import pytest

from tests.operations.cancellation import State, caller, leave, states
from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, free_port, json_steps, sse, wait_until

pytestmark = pytest.mark.services
LONG_S = 2.0
"""Far above what it takes, which `benchmarks/relay.py` measures."""


def last_row(gateway: Gateway, before: int) -> dict[str, Any]:
    """The row of the request after the first `before`."""
    rows = wait_until(lambda: rows if len(rows := gateway.usage()) > before else None, 5, "a usage row")
    return dict(rows[0])


@pytest.fixture(scope="module")
def quiet(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Gateway(tmp_path_factory.mktemp("quiet"), [fake.url])
    yield made
    made.process.stop()


@pytest.mark.parametrize("state", list(states()), ids=str)
def test_who_leaves_stops_the_model_server(quiet: Gateway, fake: Fake, state: State) -> None:
    before = len(quiet.usage())
    assert leave(quiet, fake, state) < LONG_S
    row = last_row(quiet, before)
    assert (row["outcome"], row["stream"], row["path"]) == ("cancelled", state.stream, state.path)
    begun = state.name == "in mid-stream"
    assert (row["usage_source"], row["output_tokens"]) == (("counted", 1) if begun else ("estimated", 0))
    assert quiet.metrics()["tidegate_inflight_requests"] == 0


def test_who_leaves_while_a_connection_is_opened_is_written_down_at_once(own_gateway: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        gateway = own_gateway(
            [f"http://127.0.0.1:{full.getsockname()[1]}"], settings={"relay": {"connect_timeout_s": 20}}
        )
        with caller(gateway, "/v1/chat/completions", {"model": "m", "messages": []}):
            wait_until(lambda: gateway.metrics()["tidegate_inflight_requests"] == 1)
        left = time.monotonic()
        row = last_row(gateway, 0)
        assert row["outcome"] == "cancelled" and time.monotonic() - left < LONG_S
        for one in waiting:
            one.close()


def test_who_leaves_between_two_attempts_gets_no_further_one(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway(settings={"routing": {"retries": {"backoff_s": 1.5}}})
    fake.script("down", *json_steps({}, 503))
    fake.forget()
    with caller(gateway, "/v1/chat/completions", {"model": "m", "messages": [], "fake_script": "down"}):
        wait_until(lambda: fake.truth()["requests"] == 1)
        time.sleep(0.1)
    assert last_row(gateway, 0)["outcome"] == "cancelled"
    time.sleep(1.6)
    assert fake.truth()["requests"] == 1


def test_who_leaves_while_a_preset_searches_stops_there(own_gateway: Any, fake: Fake) -> None:
    preset = {"name": "p", "model": "m", "vector_stores": ["vs_1"]}
    gateway = own_gateway(presets=[preset], settings={"knowledge": {"url": fake.url, "search_timeout_s": 20}})
    fake.turn("fake", fake.script("search", {"stall": True}))
    fake.forget()
    messages = [{"role": "user", "content": "?"}]
    with caller(gateway, "/v1/chat/completions", {"model": "p", "messages": messages}):
        wait_until(lambda: fake.truth()["open_requests"] == 1, 5, "the search")
    wait_until(lambda: fake.truth()["cancelled"] == 1, LONG_S, "the search to be cancelled")
    row = last_row(gateway, 0)
    assert (row["outcome"], row["input_tokens"]) == ("cancelled", 0)
    assert fake.truth()["requests"] == 1, "the model was never asked"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_who_leaves_without_having_read_stops_the_model_server(own_gateway: Any, fake: Fake, reset: bool) -> None:
    gateway = own_gateway()
    event = chunked(sse(*[chat_chunk("x" * 1000)] * 40))
    fake.script("flood", {"send": STREAM_HEAD}, *[{"send": event}] * 200, {"stall": True})
    fake.forget()
    with caller(gateway, "/v1/chat/completions", {"model": "m", "stream": True, "fake_script": "flood"}) as sender:
        wait_until(lambda: fake.truth()["open_requests"] == 1)
        time.sleep(0.3)  # every buffer on the way is full
        if reset:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    wait_until(lambda: fake.truth()["cancelled"] == 1, LONG_S, "the model server to be stopped")
    assert last_row(gateway, 0)["outcome"] == "cancelled"


def test_who_leaves_during_an_attempt_at_the_second_replica_stops_that_one(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway([f"http://127.0.0.1:{free_port()}", fake.url])
    fake.script("stall", {"stall": True})
    for _ in range(2):
        fake.forget()
        before = len(gateway.usage())
        with caller(gateway, "/v1/chat/completions", {"model": "m", "messages": [], "fake_script": "stall"}):
            wait_until(lambda: fake.truth()["open_requests"] == 1)
        wait_until(lambda: fake.truth()["cancelled"] == 1, LONG_S)
        assert last_row(gateway, before)["replica"] == fake.url
    assert any(line["tried"] for line in gateway.log_lines("request"))
