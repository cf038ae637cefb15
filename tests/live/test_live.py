"""Against a real vLLM: the journeys, the contract that the fake upstream stands for, and what happens when vLLM stops.

Never the model's words: protocol, usage, finish reasons, counters. The tests run in the order in which they stand.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import NotFoundError, OpenAI

from tests.live.stack import ROOT, Up
from tests.stand import wait_until
from tidegate.local.stack import Running
from tidegate.local.traces import read_trace

pytestmark = [pytest.mark.live, pytest.mark.timeout(700)]
CHAT: list[Any] = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="session")
def client(running: Running) -> OpenAI:
    return OpenAI(base_url=running.base_url, api_key=running.api_key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def direct(up: Up, running: Running) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{up.vllm_port}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py")))
def test_journey(up: Up, running: Running, script: str) -> None:
    done = up.run(running, sys.executable, f"examples/{script}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("logprobs", [False, True], ids=["plain", "logprobs"])
def test_the_answer_is_the_same_direct_and_through_the_gateway(
    client: OpenAI, direct: OpenAI, stream: bool, logprobs: bool
) -> None:
    def shape(value: Any) -> Any:
        """Names and types, not values: two runs of a model may say different words."""
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items()}
        return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__

    def ask(through: OpenAI) -> Any:
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
        answer = through.chat.completions.create(
            model="smollm2", messages=CHAT, max_tokens=8, temperature=0, seed=1, stream=stream,
            logprobs=logprobs, extra_body={"top_k": 5, "min_tokens": 8}, **more,
        )  # fmt: skip
        chunks = [chunk.model_dump() for chunk in answer] if stream else [answer.model_dump()]
        return [shape(chunks[0]), shape(chunks[-1])], sum(len(chunk["choices"]) for chunk in chunks)

    assert ask(client) == ask(direct)


def test_errors_of_the_model_server_are_passed_on(client: OpenAI) -> None:
    with pytest.raises(Exception) as caught:
        client.chat.completions.create(model="smollm2", messages=CHAT, max_tokens=100_000)
    assert caught.value.status_code == 400 and "max_tokens" in str(caught.value)  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        client.models.retrieve("other")


def test_cached_tokens_are_reported_and_metered(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "The settlement file is sent at noon. " * 60}]
    first, second = (client.chat.completions.create(model="smollm2", messages=messages, max_tokens=2) for _ in range(2))
    assert first.usage and second.usage and second.usage.prompt_tokens_details
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 128


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_caller_who_hangs_up_stops_vllm(up: Up, running: Running, stream: bool) -> None:
    def vllm_running() -> float:
        text = httpx.get(f"http://127.0.0.1:{up.vllm_port}/metrics").text
        return sum(
            float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("vllm:num_requests_running")
        )

    wait_until(lambda: vllm_running() == 0, 30, "vLLM idle")
    body = json.dumps(
        {"model": "smollm2", "messages": CHAT, "max_tokens": 1500, "min_tokens": 1500, "stream": stream}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.api_key}\r\n"
    with socket.create_connection(("127.0.0.1", up.gateway_port)) as caller:
        caller.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: vllm_running() == 1, 30, "vLLM busy")
        assert not stream or caller.recv(1000)
    left = time.monotonic()
    wait_until(lambda: vllm_running() == 0, 20, "vLLM idle again")
    print(f"vLLM idle {time.monotonic() - left:.2f} s after the caller left")


def test_vllms_span_is_below_our_dispatch_span(client: OpenAI, running: Running) -> None:
    trace_id = os.urandom(16).hex()
    header = {"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"}
    client.chat.completions.create(model="smollm2", messages=CHAT, max_tokens=2, extra_headers=header)

    def arrived() -> dict[str, Any] | None:
        spans = {span["name"]: span for span in read_trace(Path(running.spans_file), trace_id)}
        return spans if len(spans) == 4 else None

    spans = wait_until(arrived, 20, "four spans")
    assert spans["llm_request"]["parent_id"] == spans["dispatch"]["span_id"]
    assert spans["dispatch"]["parent_id"] == spans["chat smollm2"]["span_id"] == spans["screen_input"]["parent_id"]
    assert spans["chat smollm2"]["attributes"]["gen_ai.usage.output_tokens"] == 2


def test_an_untraced_request_leaves_no_span(client: OpenAI, running: Running) -> None:
    trace_id = os.urandom(16).hex()
    header = {"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-00"}
    client.chat.completions.create(model="smollm2", messages=CHAT, max_tokens=2, extra_headers=header)
    time.sleep(2)
    assert read_trace(Path(running.spans_file), trace_id) == []


def test_nothing_of_a_key_or_a_prompt_is_in_any_log(up: Up, running: Running, client: OpenAI) -> None:
    canary = "a heron waits beside the seventh sluice"
    client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": canary}], max_tokens=2)
    log = (ROOT / ".tidegate" / "logs" / "gateway.log").read_text()
    assert '"event":"request"' in log
    assert canary not in log and running.api_key not in log and running.api_key.split("-")[2] not in log
    assert canary not in Path(running.spans_file).read_text()


def test_the_demo_fails_and_names_the_journeys_when_vllm_has_been_stopped(up: Up, running: Running) -> None:
    os.killpg(running.pids["vllm"], signal.SIGKILL)
    up.process.stop(30)
    url = f"http://127.0.0.1:{up.vllm_port}"
    env = {
        **os.environ,
        "TIDEGATE_GATEWAY__PORT": str(up.gateway_port),
        "TIDEGATE_GATEWAY__MANAGEMENT_PORT": str(up.management_port),
    }
    argv = ["make", "demo", "ONCE=1", f"MODEL_URL={url}"]
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "journey 1_chat failed" in done.stdout and "failed: 1_chat, 2_guardrail, 3_see_it" in done.stdout, (
        done.stdout
    )


def test_stopping_leaves_no_process_behind(up: Up, running: Running) -> None:
    assert up.process.popen.poll() is not None
    for pid in running.pids.values():
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)
