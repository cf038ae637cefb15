"""The relay: streams event by event, cancels, retries a dead connection, and never calls a broken stream complete."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import pytest

from tests.stand import (
    STREAM_HEAD,
    USAGE_CHUNK,
    Fake,
    Gateway,
    chat_chunk,
    chunked,
    events_of,
    http,
    json_steps,
    sse,
    stream_steps,
    wait_until,
)


def test_a_stream_arrives_as_it_is_made(gateway: Gateway) -> None:
    began, at = time.monotonic(), []
    with gateway.open_stream(max_tokens=5, fake_pace_ms=100) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                at.append(time.monotonic() - began)
    assert at[4] - at[0] > 0.25, at


def test_stream_bytes_are_not_changed(gateway: Gateway, fake: Fake) -> None:
    text = (
        ": keep-alive\n\n"
        + 'data:{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"x":[1.50]},"unknown":1}],"extra":null}\n\n'
        + 'event: e\r\ndata: {"choices":[{"index":0,"delta":{"reasoning":"r"},"finish_reason":"stop"}]}\r\n\r\n'
    )
    name = fake.script("bytes", *stream_steps(text[:40], text[40:41], text[41:], "data: [DONE]\n\n"))
    answer = gateway.chat(stream=True, fake_script=name)
    assert answer.text == text + "data: [DONE]\n\n"


@pytest.mark.parametrize("asked", [True, False])
def test_usage_is_measured_but_sent_only_if_asked_for(gateway: Gateway, fake: Fake, asked: bool) -> None:
    fake.forget()
    options = {"stream_options": {"include_usage": True}} if asked else {}
    answer = gateway.chat(stream=True, max_tokens=3, **options)
    events = events_of(answer.text)
    assert events[-1] == "[DONE]" and [bool(event.get("usage")) for event in events[:-1]].count(True) == asked
    assert json.loads(fake.seen()[0]["body"])["stream_options"] == {"include_usage": True}
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"], row["outcome"]) == (10, 3, "reported", "ok")


@pytest.mark.parametrize("options", ["null", '{"include_usage":false}', '{"continuous_usage_stats":false}'])
def test_usage_is_measured_whatever_stream_options_say(gateway: Gateway, options: str) -> None:
    raw = b'{"model":"m","stream":true,"max_tokens":2,"stream_options":%s,"messages":[]}'
    answer = gateway.post(raw % options.encode())
    assert "usage" not in answer.text
    assert gateway.usage_of(answer.headers["x-tidegate-request-id"])["usage_source"] == "reported"


def test_cached_tokens_reach_the_usage_row(gateway: Gateway, fake: Fake) -> None:
    name = fake.script("cached", *stream_steps(sse(chat_chunk("x"), chat_chunk(finish="stop"), USAGE_CHUNK, "[DONE]")))
    answer = gateway.chat(stream=True, fake_script=name)
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (7, 5, 3)


def test_absurd_usage_numbers_do_not_stop_the_journal(gateway: Gateway, fake: Fake) -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": 10**18, "prompt_tokens_details": {"cached_tokens": None}}
    body = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    answer = gateway.chat(fake_script=fake.script("absurd", *json_steps(body)))
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (0, 2**40, 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_caller_who_hangs_up_stops_the_model_server(gateway: Gateway, fake: Fake, stream: bool) -> None:
    fake.forget()
    if stream:
        with gateway.open_stream(max_tokens=100, fake_pace_ms=100) as answer:
            lines = answer.iter_lines()
            for _ in range(3):
                next(lines)
    else:
        with pytest.raises(httpx.TimeoutException):
            body = {"model": "m", "messages": [], "fake_pace_ms": 5000}
            http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=0.4)
    wait_until(lambda: fake.truth()["cancelled"] == 1 and fake.truth()["open_requests"] == 0, 2)
    row = wait_until(
        lambda: [row for row in gateway.usage() if row["outcome"] == "cancelled" and row["stream"] == stream], 5
    )[0]
    if stream:
        assert row["usage_source"] == "counted" and 1 <= row["output_tokens"] <= 5
    else:
        assert row["usage_source"] == "estimated"


def test_an_image_is_not_counted_as_text(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway()
    url = f"data:image/png;base64,{'QUJD' * 100_000}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    with pytest.raises(httpx.TimeoutException):
        body = {"model": "m", "messages": [{"role": "user", "content": content}], "fake_pace_ms": 5000}
        http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=0.4)
    row = wait_until(gateway.usage)[0]
    assert (row["outcome"], row["usage_source"]) == ("cancelled", "estimated") and 20 < row["input_tokens"] < 100


def stubborn(gateway: Gateway, **fields: Any) -> socket.socket:
    """A caller who has asked and takes nothing."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", gateway.port))
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
    reader.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return reader


def test_a_caller_who_takes_nothing_is_let_go_in_the_end(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway(settings={"relay": {"max_request_s": 1.5}, "gateway": {"keep_alive_s": 1}})
    text = "x" * 10_000_000
    whole = fake.script("huge", *json_steps({"choices": [{"index": 0, "message": {"content": text}}]}))
    flood = fake.script("flood", *stream_steps(*[sse(*[chat_chunk("x" * 1000)] * 40)] * 200))
    event, last = chunked(sse(chat_chunk("x" * 900_000))), chunked(sse(chat_chunk(finish="stop"), "[DONE]"))
    end = fake.script("end", {"send": STREAM_HEAD + event}, {"sleep_ms": 300}, {"send": last + "0\r\n\r\n"})
    with (
        stubborn(gateway, fake_script=whole) as first,
        stubborn(gateway, fake_script=flood, stream=True),
        stubborn(gateway, fake_script=end, stream=True),
    ):
        wait_until(lambda: len(gateway.usage()) == 3, 8, "all to be written down")
        assert sorted(row["outcome"] for row in gateway.usage()) == ["cancelled", "cancelled", "ok"]
        time.sleep(3.5)
        taken = 0
        with pytest.raises(ConnectionResetError):
            while data := first.recv(1 << 20):
                taken += len(data)
            raise ConnectionResetError
        assert taken < len(text) / 2, "what nobody takes is not held for ever"
    assert gateway.log_lines("defect") == []


def test_a_connection_is_kept_and_used_again(gateway: Gateway, fake: Fake) -> None:
    gateway.chat(max_tokens=1)
    before = fake.truth()["connections"]
    for stream in (True, False) * 5:
        gateway.chat(max_tokens=1, stream=stream)
    assert fake.truth()["connections"] <= before + 1 + 1  # + the control connection of `truth` itself


def test_a_connection_closed_before_the_answer_is_not_tried_for_ever(gateway: Gateway, fake: Fake) -> None:
    gateway.chat(max_tokens=1)  # leaves a connection in the pool
    fake.forget()
    answer = gateway.chat(fake_script=fake.script("close", {"cut": "fin"}))
    assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_broken"
    assert fake.truth()["requests"] == 2  # on the pooled connection, and once on a fresh one


def test_a_slow_reader_holds_the_model_server_back(gateway: Gateway, fake: Fake) -> None:
    text = sse(*[chat_chunk("x" * 1000)] * 40)
    steps = stream_steps(*[text] * 200, sse(chat_chunk(finish="stop"), "[DONE]"))
    name = fake.script("flood", *steps)
    body = json.dumps({"model": "m", "messages": [], "stream": True, "fake_script": name}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as reader:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        reader.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        before = resident_mb(gateway)
        time.sleep(1)
        assert resident_mb(gateway) - before < 8  # of some 8.6 MB that wait
        received = 0
        while received < 7_000_000:
            received += len(reader.recv(1 << 20))


def resident_mb(gateway: Gateway) -> float:
    with open(f"/proc/{gateway.process.popen.pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def test_what_waits_and_what_runs_is_told_by_model_until_it_ends(own_gateway: Any, fake: Fake) -> None:
    """What replicas are added by: requests without a first byte, and the tokens that are worked on."""
    gateway = own_gateway()
    waiting, tokens = 'tidegate_waiting_requests{model="m"}', 'tidegate_inflight_tokens{model="m"}'
    events = [sse(chat_chunk("word "))] * 9
    fake.script(
        "counted", {"send": STREAM_HEAD}, {"sleep_ms": 400}, *[{"send": chunked(e)} for e in events], {"stall": True}
    )
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        opened = pool.submit(stack.enter_context, gateway.open_stream(fake_script="counted"))
        wait_until(lambda: gateway.metrics().get(waiting) == 1, 5, "a waiting request")
        before = gateway.metrics()[tokens]
        opened.result()
        wait_until(lambda: gateway.metrics()[tokens] == before + 9, 5, "the streamed tokens")
        assert before > 10 and gateway.metrics()[waiting] == 0
    wait_until(lambda: gateway.metrics()[tokens] == 0, 5, "the end")


def test_the_metrics_and_the_rows_agree(own_gateway: Any) -> None:
    gateway = own_gateway()
    for number in range(12):
        gateway.chat(max_tokens=2, stream=bool(number % 2))
    gateway.chat("4111 1111 1111 1111")
    gateway.chat(model="unknown")
    rows = wait_until(lambda: rows if len(rows := gateway.usage()) == 13 else None, 5)
    metrics = gateway.metrics()
    counted = {name: value for name, value in metrics.items() if name.startswith("tidegate_requests_total")}
    assert sum(counted.values()) == 13
    assert sum(row["output_tokens"] for row in rows) == 24
    assert metrics['tidegate_tokens_total{direction="output",model="m"}'] == 24
    assert metrics['tidegate_refusals_total{code="model_not_found"}'] == 1
    assert metrics["tidegate_inflight_requests"] == 0
