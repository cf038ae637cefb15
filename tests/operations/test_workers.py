"""Several workers behind one port: limits hold across them, none is missed, all add up. Real processes and `kill -9`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.operations.test_drain import Reader
from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, events_of, http, sse, stream_steps, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]
WORKERS = 3


@pytest.fixture
def crew(own_gateway: Any) -> Any:
    """Builds a gateway of three workers."""

    def build(**options: Any) -> Gateway:
        settings = {"gateway": {"workers": WORKERS, "shutdown_grace_s": 10}, "limits": {"store": "shared"}}
        for section, values in options.pop("settings", {}).items():
            settings.setdefault(section, {}).update(values)
        gateway: Gateway = own_gateway(settings=settings, **options)
        wait_until(lambda: gateway.metrics().get("tidegate_workers") == WORKERS, 20, "all workers")
        return gateway

    return build


def pids(gateway: Gateway) -> set[int]:
    """The workers' process ids."""
    found = subprocess.run(["pgrep", "-P", str(gateway.process.popen.pid)], capture_output=True, text=True, check=False)
    return {int(line) for line in found.stdout.split()}


def many(gateway: Gateway, count: int, **fields: Any) -> Counter[int]:
    """So many requests at once, each on a connection of its own; their statuses."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}

    def one(_: int) -> int:
        url = f"{gateway.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=gateway.headers, timeout=30).status_code

    with ThreadPoolExecutor(32) as pool:
        return Counter(pool.map(one, range(count)))


def requests_counted(gateway: Gateway) -> float:
    return sum(value for name, value in gateway.metrics().items() if name.startswith("tidegate_requests_total"))


def test_several_workers_without_shared_limits_refuse_to_start(own_gateway: Any) -> None:
    first = own_gateway()
    env = {"TIDEGATE_GATEWAY__WORKERS": "2", "TIDEGATE_JOURNAL__DIRECTORY": str(first.folder / "other")}
    argv = [sys.executable, "-m", "gateway", "--config", str(first.config)]
    done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "gateway.workers is 2, but limits.store is 'process'" in done.stderr and "'shared'" in done.stderr


def test_all_workers_serve_and_their_metrics_and_rows_add_up(crew: Any) -> None:
    gateway = crew()
    assert many(gateway, 300) == {200: 300}
    wait_until(lambda: requests_counted(gateway) == 300, 5, "300 requests in the metrics")
    metrics = gateway.metrics()
    assert metrics['gen_ai_server_request_duration_seconds_count{model="m"}'] == 300
    assert metrics['gen_ai_server_request_duration_seconds_bucket{le="+Inf",model="m"}'] == 300
    assert metrics["tidegate_inflight_requests"] == 0
    wait_until(lambda: len(gateway.usage()) == 300, 10, "300 rows")
    shares = [len(list((gateway.folder / "journal" / f"worker-{slot}").glob("*.jsonl"))) for slot in range(WORKERS)]
    assert all(shares), "every worker has a journal of its own"


def test_a_limit_holds_for_all_workers_together(crew: Any) -> None:
    limits = {"requests_per_minute": 60, "concurrent_requests": 5}
    gateway = crew(projects=[{"name": "demo", "all_models": True, "limits": limits}])
    began = time.monotonic()
    seen = many(gateway, 200)
    allowed = 60 + (time.monotonic() - began)
    assert 55 <= seen[200] <= allowed + 1 and seen[200] + seen[429] == 200


def test_slots_hold_for_all_workers_and_a_killed_one_gives_its_own_back(crew: Any, fake: Fake) -> None:
    limits = {"concurrent_requests": 5}
    gateway = crew(projects=[{"name": "demo", "all_models": True, "limits": limits}])
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(many, gateway, 12, fake_pace_ms=1500)
        assert slow.result() == {200: 5, 429: 7}
    fake.script("holds", {"send": STREAM_HEAD}, {"send": chunked(sse(chat_chunk("a")))}, {"stall": True})
    readers = [Quiet(gateway, stream=True, fake_script="holds") for _ in range(5)]
    wait_until(lambda: fake.truth()["open_requests"] == 5, 10, "five streams")
    assert gateway.chat(max_tokens=1).status_code == 429
    for pid in pids(gateway):
        os.kill(pid, signal.SIGKILL)
    for reader in readers:
        reader.join(10)
    wait_until(lambda: gateway.metrics().get("tidegate_workers") == WORKERS, 20, "new workers")
    assert many(gateway, 5) == {200: 5}
    expected = Counter(ok=10, interrupted=5)  # who was refused before the body was read has no row
    wait_until(lambda: Counter(row["outcome"] for row in gateway.usage()) == expected, 10, f"rows as {expected}")


class Quiet(Reader):
    """A stream whose end does not matter."""

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            super().run()


def test_a_killed_worker_is_replaced_and_makes_no_counter_fall(crew: Any) -> None:
    gateway = crew()
    many(gateway, 90)
    wait_until(lambda: requests_counted(gateway) == 90, 5, "90 requests in the metrics")
    before = gateway.metrics()
    first = pids(gateway)
    for victim in sorted(first)[:2]:
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(pids(gateway) - set(sorted(first)[:2])) == WORKERS, 10, "their successors")
    wait_until(lambda: gateway.metrics()["tidegate_workers"] == WORKERS, 20, "them to serve")
    assert len(pids(gateway) - first) == 2
    after = gateway.metrics()
    for name, value in before.items():
        if name.partition("{")[0].endswith(("_total", "_count", "_sum", "_bucket")):
            assert after[name] >= value, name
    assert after["tidegate_workers_lost_total"] == 2
    many(gateway, 30)
    wait_until(lambda: requests_counted(gateway) == 120, 5, "what came since is added")
    wait_until(lambda: len(gateway.usage()) == 120, 10, "a row each")


def test_a_reload_drops_neither_request_nor_stream(crew: Any, fake: Fake) -> None:
    gateway = crew()
    fake.script(
        "long", *stream_steps(*[sse(chat_chunk("a"))] * 8, sse(chat_chunk("b", finish="stop"), "[DONE]"), pause_ms=500)
    )
    reader = Reader(gateway, stream=True, fake_script="long")
    assert reader.began.wait(5)
    over, seen = threading.Event(), Counter[int]()

    def go_on() -> None:
        while not over.is_set():
            seen.update(many(gateway, 8))

    thread = threading.Thread(target=go_on)
    thread.start()
    before = pids(gateway)
    document = yaml.safe_load(gateway.config.read_text())
    document["settings"]["gateway"] |= {"workers": 2, "max_body_bytes": 2048}
    gateway.config.write_text(yaml.safe_dump(document))
    gateway.process.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: gateway.log_lines("reloaded"), 30, "the reload")
    assert gateway.chat("x" * 4000).status_code == 413, "the new limit holds"
    assert events_of(reader.end())[-1] == "[DONE]", "the stream ended where it began"
    over.set()
    thread.join(30)
    assert set(seen) == {200} and seen[200] > 8
    wait_until(lambda: len(pids(gateway)) == 2 and not pids(gateway) & before, 20, "the old workers to end")
    assert not gateway.log_lines("worker_lost")
    assert gateway.metrics()["tidegate_workers"] == 2


def test_reloads_are_not_noticed_by_who_keeps_a_connection_or_is_slow_to_use_a_new_one(crew: Any) -> None:
    gateway = crew()
    over, seen = threading.Event(), Counter[int]()
    url, body = f"{gateway.url}/v1/chat/completions", {"model": "m", "messages": [], "max_tokens": 1}

    def keep() -> None:
        with httpx.Client(headers=gateway.headers, timeout=30) as client:
            while not over.wait(0.05):
                seen[client.post(url, json=body).status_code] += 1

    def dawdle() -> None:
        while not over.is_set():
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as caller:
                over.wait(0.1)
                caller.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n")
                over.wait(0.1)
                caller.sendall(f"authorization: {gateway.headers['authorization']}\r\n\r\n".encode())
                seen[int(caller.recv(65536).split()[1])] += 1

    with ThreadPoolExecutor(16) as pool:
        callers = [pool.submit(ask) for ask in (keep, dawdle) for _ in range(8)]
        try:
            for count in (1, 2, 3):
                gateway.process.popen.send_signal(signal.SIGHUP)
                wait_until(lambda count=count: len(gateway.log_lines("reloaded")) == count, 30, "the reload")
                assert http.get(f"{gateway.management_url}/readyz").status_code == 200
                assert gateway.metrics()["tidegate_workers"] == WORKERS, "new ones are ready before old ones go"
                wait_until(lambda: len(pids(gateway)) == WORKERS, 20, "the old workers to end")
        finally:
            over.set()
        for caller in callers:
            caller.result(30)
    assert set(seen) == {200} and seen[200] > 200, seen


def test_a_bad_configuration_changes_nothing(crew: Any) -> None:
    gateway = crew()
    before = pids(gateway)
    good = gateway.config.read_text()
    for bad in (good.replace("shutdown_grace_s", "shutdown_grice_s"), good.replace(f"port: {gateway.port}", "port: 1")):
        assert bad != good
        gateway.config.write_text(bad)
        told = len(gateway.log_lines("not_reloaded"))
        gateway.process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda told=told: len(gateway.log_lines("not_reloaded")) > told, 10, "a complaint")
    assert pids(gateway) == before and gateway.chat(max_tokens=1).status_code == 200


def test_stopping_waits_for_every_worker_and_ships_their_journals(crew: Any, fake: Fake) -> None:
    gateway = crew()
    fake.script(
        "slow", *stream_steps(sse(chat_chunk("a")), sse(chat_chunk("b", finish="stop"), "[DONE]"), pause_ms=1200)
    )
    readers = [Reader(gateway, stream=True, fake_script="slow") for _ in range(6)]
    assert all(reader.began.wait(5) for reader in readers)
    gateway.process.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: http.get(f"{gateway.management_url}/readyz").status_code == 503, 2, "readiness to fail")
    assert all(events_of(reader.end())[-1] == "[DONE]" for reader in readers)
    assert gateway.process.popen.wait(15) == 0
    assert [row["outcome"] for row in gateway.usage()] == ["ok"] * 6


def test_workers_end_when_their_supervisor_is_killed(crew: Any) -> None:
    gateway = crew()
    left = pids(gateway)
    gateway.process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 15, "the workers to end")
    gateway.start()
    assert gateway.chat(max_tokens=1).status_code == 200
