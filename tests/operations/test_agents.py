"""The agents service killed in the middle of runs: callers are told, the model is stopped, what was kept is there."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.agents_stand import Bench, calls, says
from tests.knowledge_stand import Knowledge
from tests.stand import Fake, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]
FAULTY: Any = {"type": "mcp", "server_label": "faulty", "require_approval": "never"}


@pytest.fixture
def bench(tmp_path: Path, fake: Fake, knowledge: Knowledge, store_url: str | None) -> Iterator[Bench]:
    made = Bench(tmp_path, fake, knowledge, store_url)
    yield made
    made.close()


def test_runs_that_are_killed_are_told_stop_the_model_and_lose_nothing_that_was_kept(bench: Bench, fake: Fake) -> None:
    base = f"{bench.gateway.url}/v1"
    with OpenAI(base_url=base, api_key=bench.gateway.key, max_retries=0, timeout=30) as client:
        bench.script(
            says("kept"), says("word " * 400), calls(("faulty__hang", {"mark": "killed"})), says("on"), pause_ms=20
        )
        kept = client.responses.create(model="m", input="first")
        speaking = iter(client.responses.create(model="m", input="long", stream=True))
        running = next(speaking).response.id  # type: ignore[union-attr]
        wait_until(lambda: next(speaking).type == "response.output_text.delta", 10, "the model to speak")
        calling = iter(client.responses.create(model="m", input="tool", tools=[FAULTY], stream=True))
        wait_until(lambda: next(calling).type == "response.mcp_call.in_progress", 10, "the tool call")
        wait_until((bench.folder / "killed.begun").exists, 10, "the tool to begin")
        bench.process.kill()
        for stream in (speaking, calling):
            with pytest.raises(openai.APIError, match="agents service broke off"):
                list(stream)
        wait_until(lambda: fake.truth()["open_requests"] == 0, 5, "the model to be stopped")
        wait_until((bench.folder / "killed.cancelled").exists, 5, "the tool to be cancelled")
        with pytest.raises(openai.APIStatusError, match="cannot be reached") as caught:
            client.responses.create(model="m", input="while away")
        assert caught.value.status_code == 503
        bench.start()
        assert client.responses.retrieve(kept.id).output_text == "kept"
        steps = [kind for kind, _ in bench.journal(running)]
        assert steps == ["started", "model_called"], "what was under way can be told from the journal"
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(running)
        again = client.responses.create(model="m", input="second", previous_response_id=kept.id)
        assert again.output_text == "on" and len(bench.asked()[-1]["messages"]) == 3
    rows = wait_until(lambda: found if len(found := bench.gateway.usage()) >= 5 else None, 10, "a row per call")
    outcomes = sorted((row["path"], row["outcome"]) for row in rows)
    assert outcomes == [
        ("/mcp", "cancelled"),
        ("/v1/chat/completions", "cancelled"),
        *[("/v1/chat/completions", "ok")] * 3,
    ]


def test_runs_that_outlast_the_grace_are_cut_off_and_written_down(bench: Bench, fake: Fake) -> None:
    with OpenAI(base_url=f"{bench.gateway.url}/v1", api_key=bench.gateway.key, max_retries=0, timeout=30) as client:
        bench.script(says("word " * 1000), calls(("faulty__hang", {"mark": "late"})), pause_ms=20)
        speaking = iter(client.responses.create(model="m", input="long", stream=True))
        running = next(speaking).response.id  # type: ignore[union-attr]
        calling = iter(client.responses.create(model="m", input="tool", tools=[FAULTY], stream=True))
        wait_until((bench.folder / "late.begun").exists, 10, "the tool to begin")
        began = time.monotonic()
        assert bench.process.stop() == 0 and time.monotonic() - began < 8
        for stream in (speaking, calling):
            with pytest.raises(openai.APIError):
                list(stream)
    wait_until(lambda: fake.truth()["open_requests"] == 0, 5, "the model to be stopped")
    wait_until((bench.folder / "late.cancelled").exists, 5, "the tool to be cancelled")
    assert bench.journal(running)[-1] == ("ended", {"status": "cancelled"})


def test_a_stop_in_good_order_lets_a_run_finish(bench: Bench) -> None:
    with OpenAI(base_url=f"{bench.gateway.url}/v1", api_key=bench.gateway.key, max_retries=0, timeout=30) as client:
        bench.script(says("a b c d"), pause_ms=50)
        stream = iter(client.responses.create(model="m", input="?", stream=True))
        next(stream)
        bench.process.popen.terminate()
        assert list(stream)[-1].type == "response.completed" and bench.process.popen.wait(10) == 0
