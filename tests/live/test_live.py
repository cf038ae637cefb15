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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import NotFoundError, OpenAI

from tests.live.canary import Canaries, Sender, files_with, metrics_of, needles, payloads
from tests.live.stack import ROOT, Site, Up
from tests.stand import http, wait_until
from tests.tool_stand import ToolServer, names
from tidegate.local.stack import Running
from tidegate.local.traces import read_trace

pytestmark = pytest.mark.live
CHAT: list[Any] = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="session")
def client(running: Running) -> OpenAI:
    return OpenAI(base_url=running.base_url, api_key=running.api_key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def direct(up: Up, running: Running) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{up.vllm_port}/v1", api_key="none", max_retries=0, timeout=120)


def test_the_demo_fails_and_names_the_journeys_when_the_model_server_is_down(tmp_path: Path) -> None:
    site = Site(tmp_path)
    argv = ["make", "demo", "ONCE=1", f"MODEL_URL=http://127.0.0.1:{site.vllm_port}"]
    done = subprocess.run(argv, env={**os.environ, **site.env}, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "journey 1_chat failed" in done.stdout, done.stdout + done.stderr
    assert "failed: 1_chat, 2_guardrail, 3_see_it, 4_ask_the_documents, 6_agent\n" in done.stdout, done.stdout


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
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_a_caller_who_hangs_up_stops_vllm(up: Up, running: Running, path: str, stream: bool) -> None:
    def vllm_running() -> float:
        text = http.get(f"http://127.0.0.1:{up.vllm_port}/metrics").text
        return sum(
            float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("vllm:num_requests_running")
        )

    wait_until(lambda: vllm_running() == 0, 30, "vLLM idle")
    said = (
        {"prompt": "Once"}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": "Tell a long story."}]}
    )
    body = json.dumps({"model": "smollm2", **said, "max_tokens": 1500, "min_tokens": 1500, "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.api_key}\r\n"
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


@pytest.fixture(scope="session")
def sender(up: Up, running: Running) -> Iterator[Sender]:
    """With a tool server that leaks and a project whose policy masks, both applied while everything runs."""
    document = yaml.safe_load(up.config.read_text())
    made = Canaries()
    leaky = ToolServer(up.folder, "faulty", up.folder / "public.json", env={"FAULTY_PAN": made.grouped})
    resources = document["resources"]
    resources["mcp_servers"].append({"name": "faulty", "url": leaky.url})
    resources["policies"].append({"name": "mask", "guardrails": [{"type": "pan", "on_input": "mask"}]})
    projects = resources["organisations"][0]["projects"]
    projects[0]["mcp_servers"].append("faulty")
    projects.append({"name": "masked", "all_models": True, "policy": "mask"})
    up.config.write_text(yaml.safe_dump(document))
    up.cli(running, "apply")
    key = up.cli(running, "keys", "create", "--organisation", "acme", "--project", "masked")
    wait_until(
        lambda: "faulty__leak" in names(f"http://127.0.0.1:{up.gateway_port}/mcp", running.api_key),
        10,
        "the resources to be noticed",
    )
    made_sender = Sender(made, running, key)
    yield made_sender
    made_sender.close()
    leaky.process.stop()


def test_canaries_take_every_way_and_leave_no_trace_in_the_metrics(up: Up, sender: Sender) -> None:
    sender.send_sentences()
    sender.send_card()
    sender.wait_forgotten(up.folder / "knowledge")
    ports = (up.management_port, up.knowledge_management_port, up.agents_management_port, up.vllm_port, *up.tool_ports)
    shown = metrics_of([f"http://127.0.0.1:{port}" for port in ports])
    canaries = sender.canaries
    assert "tidegate_requests_total" in shown and "vllm:" in shown and "tidegate_knowledge_files" in shown
    assert [word for word in (canaries.card, canaries.grouped, *canaries.words.values()) if word in shown] == []


def test_stopping_leaves_no_process_behind(up: Up, running: Running) -> None:
    os.killpg(running.pids["vllm"], signal.SIGKILL)
    up.process.stop(30)

    def gone(group: int) -> bool:
        """Not even a zombie that init has yet to see off."""
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    for name, pid in running.pids.items():
        wait_until(lambda pid=pid: gone(pid), 5, f"{name} to be gone")


def test_the_card_number_is_nowhere_and_each_sentence_only_where_a_policy_stores_it(up: Up, sender: Sender) -> None:
    """Raw, in UTF-16 and in base64, in every file of the running stack: state, databases, indexes, journal, logs, spans."""
    canaries = sender.canaries
    held = list(payloads(up.folder / "knowledge"))

    def holding(wanted: list[bytes]) -> list[Path]:
        return files_with([ROOT / ".tidegate", up.folder], wanted, since=canaries.made_at - 2)

    assert holding(canaries.card_needles()) == []
    assert not any(canaries.card in text or canaries.grouped in text for text in held)
    assert any(canaries.words["masked file"] in text for text in held)
    kept = {way: holding(needles(word)) for way, word in canaries.words.items()}
    places = {way: sorted({_place(path, up.folder) for path in found}) for way, found in kept.items()}
    print(json.dumps(places, indent=1))
    allowed = {
        "file": ["knowledge"],
        "masked file": ["knowledge"],
        "response": ["tidegate.db"],
        "masked response": ["tidegate.db"],
    }
    assert places == {way: allowed.get(way, []) for way in canaries.words}


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parts[0] if path.is_relative_to(folder) else str(path)
