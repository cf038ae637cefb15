"""Promises about crashes, shown with processes of the operating system and kill -9."""

import random
import resource
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from gateway.ledger.journal import unread
from tests.operations.postgres import own_postgres
from tests.stand import Fake, Gateway, http, wait_until

pytestmark = pytest.mark.services


def test_a_killed_gateway_leaves_one_interrupted_row_per_running_request(
    own_gateway: Any, fake: Fake, store_url: str | None
) -> None:
    gateway: Gateway = own_gateway(store_url=store_url)
    done = gateway.chat(max_tokens=2).headers["x-tidegate-request-id"]
    with gateway.open_stream(max_tokens=100, fake_pace_ms=50) as stream:
        running = stream.headers["x-tidegate-request-id"]
        lines = stream.iter_lines()
        next(lines)
        gateway.process.kill()
    gateway.start()
    rows = wait_until(lambda: rows if len(rows := gateway.usage()) >= 2 else None, 10)
    assert {row["request_id"]: row["outcome"] for row in rows} == {done: "ok", running: "interrupted"}
    row = next(row for row in rows if row["request_id"] == running)
    assert row["usage_source"] == "estimated" and row["input_tokens"] > 0 and row["key_id"] in gateway.key
    assert gateway.log_lines("recovered")[-1]["interrupted"] == 1


def test_exactly_one_row_per_admitted_request_whenever_the_gateway_is_killed(
    own_gateway: Any, fake: Fake, store_url: str | None
) -> None:
    gateway: Gateway = own_gateway(store_url=store_url)
    fake.forget()
    finished: list[str] = []
    stop = threading.Event()

    def call(seed: int) -> None:
        source = random.Random(seed)
        while not stop.is_set():
            body = {
                "model": "m",
                "messages": [],
                "max_tokens": 3,
                "stream": source.random() < 0.5,
                "fake_pace_ms": source.choice([0, 5, 60, 120]),
            }
            try:
                answer = http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=10)
                finished.append(answer.headers["x-tidegate-request-id"])
            except httpx.TransportError:
                time.sleep(0.05)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            time.sleep(0.7)
            gateway.process.kill()
            gateway.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    dispatched = fake.truth()["requests"]
    gateway.process.stop()  # ships what is left
    rows = gateway.usage()
    counts = Counter(row["request_id"] for row in rows)
    assert max(counts.values()) == 1
    assert set(finished) <= set(counts), "a request that was answered has no row"
    interrupted = [row for row in rows if row["outcome"] == "interrupted"]
    # A request may be journalled and killed before the model server saw it; never the other way round.
    assert dispatched <= len(rows) <= dispatched + len(interrupted)
    assert len(finished) > 50 and interrupted, (len(finished), len(interrupted))


def test_a_database_that_is_away_stops_no_request_and_loses_no_row(own_gateway: Any, tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    with own_postgres(folder) as postgres:
        gateway: Gateway = own_gateway(store_url=postgres.url)
        assert gateway.chat(max_tokens=1).status_code == 200
        postgres.stop()
        ids = [gateway.chat(max_tokens=1).headers["x-tidegate-request-id"] for _ in range(20)]
        wait_until(
            lambda: any(
                "errors_total" in name and value for name, value in gateway.metrics().items() if "ship" in name
            ),
            10,
        )
        assert gateway.chat(max_tokens=1).status_code == 200
        assert http.get(f"{gateway.url}/readyz").status_code == 200
        postgres.start()
        rows = wait_until(lambda: rows if len(rows := gateway.usage()) == 22 else None, 20)
        assert set(ids) <= {row["request_id"] for row in rows}


def test_a_second_gateway_cannot_take_the_same_journal(own_gateway: Any) -> None:
    from tests.stand import Process, free_port

    gateway: Gateway = own_gateway()
    import sys

    env = {"TIDEGATE_GATEWAY__PORT": str(free_port()), "TIDEGATE_GATEWAY__MANAGEMENT_PORT": str(free_port())}
    second = Process(
        [sys.executable, "-m", "gateway", "--config", str(gateway.config)], gateway.folder / "second.log", env
    )
    assert second.popen.wait(20) == 1
    assert "belongs to another running gateway" in second.text()


def test_sigterm_lets_a_running_stream_finish(own_gateway: Any) -> None:
    gateway: Gateway = own_gateway()
    with gateway.open_stream(max_tokens=10, fake_pace_ms=100) as stream:
        lines = stream.iter_lines()
        next(lines)
        gateway.process.popen.terminate()
        assert "data: [DONE]" in list(lines)
    assert gateway.process.popen.wait(10) == 0
    (row,) = gateway.usage()
    assert (row["outcome"], row["output_tokens"]) == ("ok", 10)


def test_a_request_cut_off_by_the_end_of_the_grace_still_has_its_row(own_gateway: Any, fake: Fake) -> None:
    gateway: Gateway = own_gateway(settings={"gateway": {"shutdown_grace_s": 1}})
    fake.forget()
    with gateway.open_stream(max_tokens=1000, fake_pace_ms=100) as stream:
        lines = stream.iter_lines()
        next(lines)
        gateway.process.popen.terminate()
        assert gateway.process.popen.wait(15) == 0
    (row,) = gateway.usage()
    assert (row["outcome"], row["usage_source"]) == ("interrupted", "counted") and row["output_tokens"] > 5
    wait_until(lambda: fake.truth()["cancelled"] == 1)


def test_a_torn_journal_line_is_passed_over(own_gateway: Any) -> None:
    gateway: Gateway = own_gateway()
    gateway.chat(max_tokens=1)
    gateway.process.kill()
    segment = max((gateway.folder / "journal").glob("*.jsonl"))
    with segment.open("r+b") as file:
        file.seek(unread(segment, 0))
        file.write(b'e{"request_id":"torn')
    gateway.start()
    gateway.chat(max_tokens=1)
    rows = wait_until(lambda: rows if len(rows := gateway.usage()) == 2 else None, 10)
    assert {row["outcome"] for row in rows} == {"ok"}
    wait_until(lambda: not segment.exists(), 5)
    assert gateway.metrics()["tidegate_journal_unshipped_bytes"] == 0


def test_a_full_disk_stops_new_requests_and_loses_no_row(own_gateway: Any) -> None:
    gateway: Gateway = own_gateway(settings={"journal": {"segment_bytes": 524_288}})
    limit, answered = 500_000, []

    def ask() -> httpx.Response:
        answer = gateway.chat(max_tokens=1)
        if answer.status_code == 200:
            answered.append(answer.headers["x-tidegate-request-id"])
        return answer

    with gateway.open_stream(max_tokens=100, fake_pace_ms=50) as stream:
        resource.prlimit(gateway.process.popen.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        refused = next(answer for _ in range(1_000) if (answer := ask()).status_code != 200)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "journal_full"
        assert refused.headers["retry-after"] == "1" and refused.headers["x-should-retry"] == "true"
        assert ask().status_code == 503
        ready = http.get(f"{gateway.url}/readyz")
        assert ready.status_code == 503 and "journal" in ready.text
        stream.read()
        answered.append(stream.headers["x-tidegate-request-id"])
    resource.prlimit(gateway.process.popen.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert http.get(f"{gateway.url}/readyz").status_code == 200
    assert ask().status_code == 200
    wait_until(
        lambda: sorted(row["request_id"] for row in gateway.usage() if row["outcome"] == "ok") == sorted(answered), 10
    )
