"""Behind HAProxy, which OpenShift's router is: nobody notices a rolling restart, and a silent stream is not cut."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.operations.haproxy import Haproxy
from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, events_of, sse, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
RESTARTS = 10
DRAINING = {"gateway": {"drain_delay_s": 2, "shutdown_grace_s": 20}}


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Any]:
    """Builds an HAProxy in front of gateways; it is stopped at the end."""
    made: list[Haproxy] = []

    def build(*gateways: Gateway, **options: Any) -> Haproxy:
        folder = tmp_path / f"haproxy{len(made)}"
        folder.mkdir()
        made.append(Haproxy(folder, gateways, **options))
        return made[-1]

    yield build
    for haproxy in made:
        haproxy.process.stop()


class Load:
    """Callers that go on, one request after the other, until they are told to stop; what they saw."""

    def __init__(self, url: str, headers: dict[str, str], *, whole: int, streams: int) -> None:
        self.seen: Counter[str] = Counter()
        self._url, self._headers = url, headers
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number >= whole,)) for number in range(whole + streams)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, stream: bool) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "stream": stream}
        body["fake_pace_ms"] = 20
        with httpx.Client(headers=self._headers, timeout=30) as client:
            while not self._over.is_set():
                self.seen[_what(client, f"{self._url}/v1/chat/completions", body)] += 1

    def stop(self) -> Counter[str]:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        return self.seen


def _what(client: httpx.Client, url: str, body: dict[str, Any]) -> str:
    """What became of one request."""
    try:
        answer = client.post(url, json=body)
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:80]}"
    if not body["stream"]:
        return "whole"
    return "stream" if events_of(answer.text)[-1] == "[DONE]" else f"cut {answer.text[-80:]}"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_nobody_notices_ten_rolling_restarts(own_gateway: Any, behind: Any, store_url: str) -> None:
    gateways: list[Gateway] = [own_gateway(settings=DRAINING, store_url=store_url) for _ in range(2)]
    haproxy = behind(*gateways)
    load, ended_with = Load(haproxy.url, gateways[0].headers, whole=4, streams=8), []
    for number in range(RESTARTS):
        gateway = gateways[number % 2]
        ended_with.append(gateway.process.stop(30))
        gateway.start()
        haproxy.wait_up(number % 2)
    seen = load.stop()
    print(dict(seen))
    assert ended_with == [0] * RESTARTS
    assert set(seen) == {"whole", "stream"}, "nothing else was ever seen"
    assert seen["whole"] > 100 and seen["stream"] > 100

    def outcomes() -> Counter[str]:
        return Counter(row["outcome"] for row in gateways[0].usage())

    wait_until(lambda: outcomes() == Counter(ok=seen.total()), 10, f"a row for each of {seen.total()} requests")


def test_a_silent_stream_outlives_the_routers_patience(own_gateway: Any, behind: Any, fake: Fake) -> None:
    gateway = own_gateway(settings={"relay": {"comment_after_s": 0.8}})
    end = sse(chat_chunk("b", finish="stop"), "[DONE]")
    steps: list[dict[str, Any]] = [{"sleep_ms": 4000}, {"send": STREAM_HEAD}, {"send": chunked(sse(chat_chunk("a")))}]
    fake.script("silent", *steps, {"sleep_ms": 4000}, {"send": chunked(end)}, {"send": "0\r\n\r\n"})
    haproxy = behind(gateway, timeout_server="2s")
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "fake_script": "silent"}
    answer = httpx.post(f"{haproxy.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30)
    assert answer.status_code == 200 and events_of(answer.text)[-1] == "[DONE]"
    assert answer.text.count(": waiting\n\n") >= 8


def test_a_whole_answer_does_not(own_gateway: Any, behind: Any, fake: Fake) -> None:
    """A status cannot be taken back, so nothing can be said before the answer is there: docs/faults.md tells what to do."""
    gateway = own_gateway()
    haproxy = behind(gateway, timeout_server="1s")
    body = {"model": "m", "messages": [], "fake_pace_ms": 60_000}
    answer = httpx.post(f"{haproxy.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30)
    assert answer.status_code == 504
    wait_until(lambda: fake.truth()["open_requests"] == 0, 5, "the model server to be told")


@pytest.mark.parametrize("passed_on", [True, False], ids=["abortonclose", "without"])
def test_a_hang_up_reaches_the_gateway_only_with_abortonclose(
    own_gateway: Any, behind: Any, fake: Fake, passed_on: bool
) -> None:
    gateway = own_gateway()
    haproxy = behind(gateway, options="option abortonclose" if passed_on else "")
    body = {"model": "m", "messages": [], "fake_pace_ms": 4000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{haproxy.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=0.5)
    time.sleep(1)
    assert fake.truth()["open_requests"] == (0 if passed_on else 1)
    wait_until(lambda: fake.truth()["open_requests"] == 0, 10, "the end")
