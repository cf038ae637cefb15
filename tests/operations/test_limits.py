"""Limits that gateways on several machines share in Redis: exact, bounded when it is away, right again when it is back.

Real processes: each gateway has a folder, a database and a journal of its own, and shares nothing but a Redis.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.operations.redis import OwnRedis, own_redis
from tests.operations.test_workers import Quiet
from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, http, sse, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]
AWAY = "tidegate_limit_store_away"
RUNNING = "{tidegate}:running:acme:demo"
LEASE_S = 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OwnRedis]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with own_redis(folder) as made:
        yield made


@pytest.fixture
def several(own_gateway: Any, store: OwnRedis) -> Any:
    """Builds so many gateways that share limits."""

    def build(count: int, limits: dict[str, int], **options: Any) -> list[Gateway]:
        settings = {"store": "redis", "redis": {"url": store.url}, "lease_s": LEASE_S, "timeout_s": 2, **options}
        projects = [{"name": "demo", "all_models": True, "limits": limits}, {"name": "free", "all_models": True}]
        return [own_gateway(settings={"limits": settings}, projects=projects) for _ in range(count)]

    return build


@pytest.fixture
def holds(fake: Fake) -> str:
    """A script of a stream that begins and does not end."""
    return fake.script("holds", {"send": STREAM_HEAD}, {"send": chunked(sse(chat_chunk("a")))}, {"stall": True})


def many(gateways: list[Gateway], each: int, **fields: Any) -> tuple[Counter[int], float]:
    """So many requests at once to each; their statuses, and the longest time that one took, in s."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}

    def one(gateway: Gateway) -> tuple[int, float]:
        began = time.monotonic()
        status = http.post(
            f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30
        ).status_code
        return status, time.monotonic() - began

    with ThreadPoolExecutor(24) as pool:
        done = list(pool.map(one, gateways * each))
    return Counter(status for status, _ in done), max(took for _, took in done)


def held(gateway: Gateway, script: str) -> Quiet:
    """A stream that has begun and goes on."""
    reader = Quiet(gateway, stream=True, fake_script=script)
    assert reader.began.wait(10), reader.status
    return reader


def living(store: OwnRedis) -> int:
    """The slots whose lease has not ended."""
    return int(store.ask("ZCOUNT", RUNNING, str(int(time.time() * 1000)), "inf"))


def is_away(gateway: Gateway) -> bool:
    return gateway.metrics()[AWAY] == 1


def is_there(gateway: Gateway) -> bool:
    return gateway.metrics()[AWAY] == 0


def test_a_minute_is_one_for_all_gateways(several: Any) -> None:
    gateways = several(3, {"requests_per_minute": 60})
    began = time.monotonic()
    seen, _ = many(gateways, 40)
    refilled = time.monotonic() - began
    assert 60 <= seen[200] <= 60 + refilled + 1 and seen[200] + seen[429] == 120
    answer = gateways[0].chat(max_tokens=1)
    if answer.status_code == 429:
        assert answer.headers["retry-after"] == "1" and "60 requests per minute" in answer.json()["error"]["message"]
    assert gateways[1].post({}, path="/v1/vector_stores").status_code in (429, 503), "services are counted, too"


def test_every_door_counts_in_the_same_minute(several: Any) -> None:
    one, other = several(2, {"requests_per_minute": 2})
    assert one.post({"name": "x"}, path="/v1/vector_stores").json()["error"]["code"] == "service_unavailable"
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
    listed = other.post(call, path="/mcp", headers=headers)
    assert "tools" in listed.text, listed.text
    other.usual_tasks += 1  # the door for tools has one of its own from its first visit on
    assert one.chat(max_tokens=1).status_code == 429
    assert one.post({"name": "x"}, path="/v1/vector_stores").status_code == 429
    assert "rate_limit_exceeded" in other.post(call, path="/mcp", headers=headers).text


def test_slots_are_given_back_by_who_ends_hangs_up_stops_or_is_killed(
    several: Any, store: OwnRedis, holds: str, fake: Fake
) -> None:
    first, second, third = several(3, {"concurrent_requests": 3})
    streams = [held(first, holds), held(second, holds)]
    with third.open_stream(fake_script=holds) as answer:
        pieces = answer.iter_raw()  # kept: who lets go of it hangs up
        assert next(pieces)
        for gateway in (first, second, third):
            refused = gateway.chat(max_tokens=1)
            assert refused.status_code == 429 and "3 requests at once" in refused.json()["error"]["message"]
    wait_until(lambda: third.chat(max_tokens=1).status_code == 200, 5, "the slot of who hung up")
    wait_until(lambda: store.ask("ZCARD", RUNNING) == 2, 5, "the slot of who was answered")
    time.sleep(LEASE_S + 0.5)
    assert store.ask("ZCARD", RUNNING) == 2, "what runs for longer than a lease keeps its slot"
    first.process.kill()
    wait_until(lambda: living(store) == 1, LEASE_S + 1, "one slot")
    second.process.stop()
    assert living(store) == 0
    assert store.ask("ZCARD", "{tidegate}:processes") <= 2, "who stops says so"
    assert many([third], 3, fake_pace_ms=500)[0] == {200: 3}
    for stream in streams:
        stream.join(10)


def test_who_asks_one_after_the_other_is_never_refused_wherever_he_asks(several: Any) -> None:
    gateways = several(2, {"concurrent_requests": 1})
    seen = Counter(gateways[number % 2].chat(max_tokens=1).status_code for number in range(100))
    assert seen == {200: 100}


def test_no_more_than_the_limit_run_whatever_the_order(several: Any, fake: Fake) -> None:
    gateways = several(3, {"concurrent_requests": 5})
    for _ in range(3):
        seen, _ = many(gateways, 6, fake_pace_ms=700)
        assert seen == {200: 5, 429: 13}
    assert fake.truth()["open_requests"] == 0


def test_who_leaves_while_the_store_is_asked_holds_nothing(several: Any, store: OwnRedis) -> None:
    (gateway,) = several(1, {"concurrent_requests": 1}, timeout_s=20, lease_s=120)
    store.hang()
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=0.3)
    wait_until(lambda: gateway.metrics()["tidegate_inflight_requests"] == 0, 5, "all have left")
    store.go_on()
    wait_until(lambda: gateway.chat(max_tokens=1).status_code == 200, 5, "a slot")
    wait_until(lambda: store.ask("ZCARD", RUNNING) == 0, 1, "no slot is held")
    gateway.process.stop()


def test_without_the_store_each_allows_its_share_and_what_runs_counts_when_it_is_back_empty(
    several: Any, store: OwnRedis, holds: str
) -> None:
    gateways = several(2, {"concurrent_requests": 4})
    time.sleep(LEASE_S / 2)  # both have heard of each other
    streams = [held(gateways[0], holds)]
    store.kill()
    for gateway in gateways:
        wait_until(lambda: is_away(gateway), 3, "it is noticed")  # noqa: B023
    assert many(gateways, 6, fake_pace_ms=700)[0] == {200: 3, 429: 9}, "two each, of which one runs"
    streams.append(held(gateways[1], holds))
    assert {line["event"] for line in gateways[0].log_lines()} >= {"limit_store_away"}
    assert gateways[0].metrics()["tidegate_limits_decided_alone_total"] > 0
    store.start()
    for gateway in gateways:
        wait_until(lambda: is_there(gateway), 5, "it is back")  # noqa: B023
    assert store.ask("ZCARD", RUNNING) == 2, "what was begun before, and without it"
    assert many(gateways, 6, fake_pace_ms=700)[0] == {200: 2, 429: 10}
    assert {line["event"] for line in gateways[0].log_lines()} >= {"limit_store_back"}
    for stream, gateway in zip(streams, gateways, strict=True):
        gateway.process.stop()
        stream.join(10)


def test_a_share_of_a_minute_is_what_is_left_of_it(several: Any, store: OwnRedis) -> None:
    gateways = several(1, {"requests_per_minute": 40}, processes=4)
    assert many(gateways, 15)[0] == {200: 15}
    store.kill()
    wait_until(lambda: is_away(gateways[0]), 3, "it is noticed")
    began = time.monotonic()
    seen, _ = many(gateways, 15)
    assert seen[200] <= 1 + (time.monotonic() - began) * 10 / 60, "its ten have been used"


def test_a_store_that_hangs_is_waited_for_once(several: Any, store: OwnRedis) -> None:
    gateways = several(2, {"concurrent_requests": 100, "requests_per_minute": 10_000}, timeout_s=0.5)
    store.hang()
    seen, longest = many(gateways, 12)
    assert seen == {200: 24} and 0.4 < longest < 3
    assert is_away(gateways[0])
    seen, longest = many(gateways, 12)
    assert seen == {200: 24} and longest < 0.4, "nobody waits for what is known to be away"
    store.go_on()
    for gateway in gateways:
        wait_until(lambda: is_there(gateway), 10, "it is back")  # noqa: B023
    assert many(gateways, 12)[0] == {200: 24}
    wait_until(lambda: store.ask("ZCARD", RUNNING) == 0, LEASE_S + 1, "what was sent to the hung store is given back")


def test_who_wants_nothing_uncounted_is_obeyed(several: Any, store: OwnRedis) -> None:
    (gateway,) = several(1, {"requests_per_minute": 1000}, when_away="refuse")
    free = gateway.make_key("free")
    store.kill()
    wait_until(lambda: is_away(gateway), 3, "it is noticed")
    refused = gateway.chat(max_tokens=1)
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "limits_unavailable"
    assert refused.headers["retry-after"] == "1" and refused.headers["x-should-retry"] == "true"
    allowed = gateway.chat(max_tokens=1, headers={"authorization": f"Bearer {free}"})
    assert allowed.status_code == 200, "who has no limit is not counted"
    assert gateway.metrics()['tidegate_refusals_total{code="limits_unavailable"}'] == 1


def test_workers_share_them_as_gateways_do(own_gateway: Any, store: OwnRedis) -> None:
    limits = {"concurrent_requests": 4}
    settings = {"gateway": {"workers": 2}, "limits": {"store": "redis", "redis": {"url": store.url}}}
    gateway = own_gateway(settings=settings, projects=[{"name": "demo", "all_models": True, "limits": limits}])
    wait_until(lambda: gateway.metrics().get("tidegate_workers") == 2, 20, "both workers")
    assert many([gateway], 12, fake_pace_ms=700)[0] == {200: 4, 429: 8}
    assert store.ask("ZCARD", "{tidegate}:processes") == 2
    store.kill()
    wait_until(lambda: gateway.metrics()[AWAY] == 2, 5, "both notice")


def test_a_gateway_starts_without_its_store_but_not_against_its_will(own_gateway: Any, tmp_path: Path) -> None:
    with own_redis(tmp_path, requirepass="open sesame") as store:
        (tmp_path / "password").write_text("open sesame\n")
        limits = {"store": "redis", "redis": {"url": store.url, "password_file": str(tmp_path / "password")}}
        gateway = own_gateway(settings={"limits": limits})
        assert is_there(gateway)
        argv = [sys.executable, "-m", "gateway", "--config", str(gateway.config)]
        (tmp_path / "wrong").write_text("guessed")
        for value, told in (
            (str(tmp_path / "wrong"), "invalid username-password pair"),
            (None, "Authentication required"),
            (str(tmp_path / "none"), "No such file"),
        ):
            env = {
                "TIDEGATE_LIMITS__REDIS": json.dumps({"url": store.url, "password_file": value}),
                "TIDEGATE_GATEWAY__PORT": "0",
                "TIDEGATE_GATEWAY__MANAGEMENT_PORT": "0",
                "TIDEGATE_JOURNAL__DIRECTORY": str(tmp_path / "other"),
            }
            done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=30)
            assert done.returncode == 1 and told in done.stderr and "guessed" not in done.stderr, done.stderr
        gateway.process.stop()
        store.kill()
        gateway.start()
        assert is_away(gateway) and gateway.chat(max_tokens=1).status_code == 200
        store.start()
        wait_until(lambda: is_there(gateway), 5, "it is found")
        gateway.process.stop()


def test_the_store_is_spoken_to_in_tls_by_a_user_that_may_do_no_more_than_it_must(
    own_gateway: Any, tmp_path: Path
) -> None:
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    files = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(["openssl", *made, *files], cwd=tmp_path, check=True, capture_output=True)
    user = "gateways|on|>known|~{tidegate}:*|+eval|+time|+get|+set|+zadd|+zrem|+zcard|+zremrangebyscore|+pexpire|+ping"
    tls = {"tls_cert_file": "cert.pem", "tls_key_file": "key.pem", "tls_ca_cert_file": "cert.pem"}
    with own_redis(tmp_path, tls_auth_clients="no", **tls, user=user, **{"tls_port": "0"}) as store:
        port = store.port
        assert store.ask("CONFIG", "SET", "port", "0", "tls-port", str(port)) == "OK"
        (tmp_path / "password").write_text("known")
        redis = {"url": f"rediss://127.0.0.1:{port}", "username": "gateways", "ca_file": str(tmp_path / "cert.pem")}
        limits = {"store": "redis", "redis": redis | {"password_file": str(tmp_path / "password")}}
        project = {"name": "demo", "all_models": True, "limits": {"requests_per_minute": 2, "concurrent_requests": 1}}
        gateway = own_gateway(settings={"limits": limits}, projects=[project])
        assert is_there(gateway)
        assert [gateway.chat(max_tokens=1).status_code for _ in range(3)] == [200, 200, 429]
        assert is_there(gateway)
        distrusts = own_gateway(settings={"limits": limits | {"redis": limits["redis"] | {"ca_file": None}}})
        assert is_away(distrusts)
        assert "CERTIFICATE_VERIFY_FAILED" in distrusts.log_lines("limit_store_away")[0]["reason"]
