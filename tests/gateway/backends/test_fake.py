"""The scriptable upstream tells the truth about itself; every fault and ledger test stands on it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.stand import Fake, events_of, http, said, wait_until


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    made = Fake(tmp_path_factory.mktemp("upstream"))
    yield made
    made.process.stop()


def post(upstream: Fake, **fields: object) -> httpx.Response:
    return http.post(f"{upstream.url}/v1/chat/completions", json={"model": "m", **fields}, timeout=10)


def test_it_counts_requests_answers_and_tokens(upstream: Fake) -> None:
    upstream.forget()
    post(upstream, max_tokens=3)
    answer = post(upstream, max_tokens=4, stream=True, stream_options={"include_usage": True})
    events = events_of(answer.text)
    assert said(events) == "tok " * 4 and events[-2]["usage"]["completion_tokens"] == 4 and events[-1] == "[DONE]"
    assert {
        "requests": 2,
        "answered": 2,
        "cancelled": 0,
        "open_requests": 0,
        "output_tokens": 7,
    }.items() <= upstream.truth().items()


def test_it_counts_who_hangs_up_and_what_they_got(upstream: Fake) -> None:
    upstream.forget()
    body = {"model": "m", "stream": True, "max_tokens": 100, "fake_pace_ms": 20}
    with httpx.stream("POST", f"{upstream.url}/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        for _ in range(3):
            next(lines)
        assert upstream.truth()["open_requests"] == 1
    truth = wait_until(lambda: truth if (truth := upstream.truth())["cancelled"] else None)
    assert truth["open_requests"] == 0 and truth["answered"] == 0 and 3 <= truth["output_tokens"] <= 8


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_it_writes_to_the_byte_and_cuts(upstream: Fake, how: str) -> None:
    name = upstream.script("raw", {"send": "HTTP/1.1 2"}, {"sleep_ms": 10}, {"send_b64": "MDAgT0s="}, {"cut": how})
    body = b'{"fake_script":"%s"}' % name.encode()
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=5) as raw:
        raw.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        got = b""
        try:
            while piece := raw.recv(100):
                got += piece
            assert how == "fin"
        except ConnectionResetError:
            assert how == "rst"
    assert b"HTTP/1.1 200 OK".startswith(got) and (how == "rst" or got == b"HTTP/1.1 200 OK")


def test_other_paths_do_not_exist_and_are_not_counted(upstream: Fake) -> None:
    upstream.forget()
    assert http.post(f"{upstream.url}/v1/chat/completions/render", json={"model": "m"}).status_code == 404
    assert upstream.truth()["requests"] == 0


def test_it_shows_what_it_was_sent(upstream: Fake, tmp_path: Path) -> None:
    upstream.forget()
    http.post(f"{upstream.url}/v1/completions?x=1", content=b'{"a": 1.50}', headers={"x-mine": "yes"})
    (seen,) = upstream.seen()
    assert seen["path"] == "/v1/completions" and seen["body"] == b'{"a": 1.50}' and ("x-mine", "yes") in seen["headers"]
