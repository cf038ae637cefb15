"""One project that sends slowly, much, or for long does not stop another. Real gateways; clients are raw sockets."""

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.gateway.test_relay import resident_mb
from tests.operations.cancellation import request_bytes
from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, sse, wait_until

pytestmark = pytest.mark.services
TWO = [{"name": name, "all_models": True} for name in ("demo", "other")]
MB = 1_000_000
CHAT = "/v1/chat/completions"


def limited(**limits: int) -> list[dict[str, Any]]:
    return [{"name": "demo", "all_models": True, "limits": limits}, {"name": "other", "all_models": True}]


class Sender:
    """A request whose body comes as slowly as the test likes."""

    def __init__(self, gateway: Gateway, path: str = CHAT, *, declared: int | None = 10 * MB, more: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        framing = "transfer-encoding: chunked" if declared is None else f"content-length: {declared}"
        kind = "multipart/form-data; boundary=X" if path == "/v1/files" else "application/json"
        self.socket.sendall(
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
            f"content-type: {kind}\r\n{framing}\r\n{more}\r\n".encode()
        )

    def send(self, data: bytes) -> None:
        """Nothing where the gateway has refused more."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return

    def answer(self) -> bytes:
        """All that comes until the gateway closes."""
        return b"".join(iter(lambda: self.socket.recv(65536), b""))

    def has_answer(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@contextmanager
def senders(gateway: Gateway, count: int, sent: bytes, *more: Any, **options: Any) -> Iterator[list[Sender]]:
    """So many, each of which has sent so much."""
    with ExitStack() as stack:
        made = [stack.enter_context(Sender(gateway, *more, **options)) for _ in range(count)]
        for sender in made:
            sender.send(sent)
        yield made


def held_back(gateway: Gateway, count: int) -> None:
    wait_until(lambda: gateway.metrics()["tidegate_inflight_requests"] == count, 10, f"{count} requests")


def refused(answer: bytes, status: int, code: str) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    error: dict[str, Any] = json.loads(body)["error"]
    assert error["code"] == code and b"retry-after: " in head and b"connection: close" in head, answer
    return error


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/audio/transcriptions", "/v1/files", "/v1/responses"])
def test_a_minute_that_is_used_up_is_told_before_a_byte_of_the_body(own_gateway: Any, path: str) -> None:
    gateway = own_gateway(projects=limited(requests_per_minute=1))
    assert gateway.chat(max_tokens=1).status_code == 200
    with Sender(gateway, path) as sender:
        assert "per minute" in refused(sender.answer(), 429, "rate_limit_exceeded")["message"]
    with Sender(gateway, path, more="expect: 100-continue\r\n") as polite:
        assert b"100 Continue" not in polite.answer()


def test_what_is_refused_for_its_body_or_model_is_counted_and_leaves_no_row(own_gateway: Any) -> None:
    gateway = own_gateway(projects=limited(requests_per_minute=4, concurrent_requests=1))
    assert gateway.post(b"nonsense").status_code == 400
    assert gateway.chat(model="unknown").status_code == 404
    assert gateway.chat(priority=1).status_code == 400, "a field that is not allowed: it was admitted"
    done = gateway.chat(max_tokens=1)
    assert done.status_code == 200 and gateway.chat(max_tokens=1).status_code == 429
    gateway.usage_of(done.headers["x-tidegate-request-id"])
    assert sorted(row["outcome"] for row in gateway.usage()) == ["ok", "refused"]


@pytest.mark.parametrize("path", [CHAT, "/v1/files", "/v1/responses"])
def test_bodies_that_come_in_count_among_a_projects_requests_at_once(own_gateway: Any, path: str) -> None:
    gateway = own_gateway(projects=limited(concurrent_requests=2))
    other = gateway.known_key("other")
    with senders(gateway, 6, b"x" * MB, path) as made:
        wait_until(lambda: sum(sender.has_answer() for sender in made) == 4, 10, "all but two to be refused")
        for sender in made:
            if sender.has_answer():
                assert "2 requests at once" in refused(sender.answer(), 429, "rate_limit_exceeded")["message"]
        assert gateway.post({"model": "m", "messages": []}, key=other).status_code == 200
        same_kind = gateway.chat(max_tokens=1).status_code
        assert same_kind == (429 if path == CHAT else 200), "a run needs slots for its model calls"
    wait_until(lambda: gateway.chat(max_tokens=1).status_code == 200, 5, "the slots to be given back")
    wait_until(lambda: gateway.post({}, path="/v1/vector_stores").status_code == 503, 5, "those for services, too")


def test_half_sent_bodies_hold_bounded_memory_and_only_their_projects_share(own_gateway: Any, fake: Fake) -> None:
    settings = {
        "gateway": {"max_buffered_bytes": 32 * MB, "max_body_bytes": 10 * MB},
        "knowledge": {"max_file_bytes": 2 * MB},
    }
    gateway = own_gateway(settings=settings, projects=TWO)
    other, before = gateway.known_key("other"), resident_mb(gateway)
    large = {"model": "m", "messages": [{"role": "user", "content": "x" * 3 * MB}], "max_tokens": 1}
    with senders(gateway, 40, b"x" * 9 * MB) as made:
        wait_until(lambda: sum(sender.has_answer() for sender in made) >= 38, 20, "most to be refused")
        assert resident_mb(gateway) - before < 60
        told = refused(next(sender for sender in made if sender.has_answer()).answer(), 429, "rate_limit_exceeded")
        assert "share" in told["message"]
        assert gateway.post(large, key=other).status_code == 200, "another project's large body"
        assert gateway.chat(max_tokens=1).status_code == 200, "and its own small one"
    wait_until(lambda: gateway.post(large).status_code == 200, 5, "all of it to be given back")
    held_back(gateway, 0)


def test_what_is_declared_but_has_not_come_holds_nothing(own_gateway: Any) -> None:
    settings = {"gateway": {"max_buffered_bytes": 32 * MB}, "knowledge": {"max_file_bytes": 2 * MB}}
    gateway = own_gateway(settings=settings)
    large = {"model": "m", "messages": [{"role": "user", "content": "x" * 9 * MB}], "max_tokens": 1}
    with senders(gateway, 40, b"{", declared=10 * MB), senders(gateway, 10, b"1\r\n{\r\n", declared=None):
        held_back(gateway, 50)
        assert gateway.post(large).status_code == 200


def test_a_full_process_says_so_and_only_to_those_who_send_much(own_gateway: Any) -> None:
    settings = {
        "gateway": {"max_buffered_bytes": 2 * MB, "max_body_bytes": 4 * MB},
        "knowledge": {"max_file_bytes": MB},
    }
    names = ("demo", "a", "b", "c")
    gateway = own_gateway(settings=settings, projects=[{"name": name, "all_models": True} for name in names])
    keys = [gateway.key, *(gateway.known_key(name) for name in names[1:])]
    with ExitStack() as stack:
        held = 0
        for key, sent in zip(keys, (3_900_000, 3_900_000, 2_000_000), strict=False):
            gateway.key = key
            stack.enter_context(senders(gateway, 1, b"x" * sent, declared=sent + 1))
            held += sent
            wait_until(lambda held=held: gateway.metrics()["tidegate_buffered_bytes"] >= held, 5, "what was sent")
        gateway.key = keys[-1]
        with Sender(gateway, declared=4_000_000) as late:
            assert "no room" in refused(late.answer(), 503, "overloaded")["message"]
        assert gateway.chat(max_tokens=1).status_code == 200


def test_a_project_that_fills_its_share_of_requests_leaves_room_on_every_path(own_gateway: Any, fake: Fake) -> None:
    fake.script("holds", {"send": STREAM_HEAD}, {"send": chunked(sse(chat_chunk("a")))}, {"stall": True})
    gateway = own_gateway(settings={"gateway": {"max_inflight_requests": 8}}, projects=TWO)
    other = gateway.known_key("other")
    body = {"model": "m", "stream": True, "messages": [], "fake_script": "holds"}
    with ExitStack() as stack:
        for _ in range(4):
            stalled = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=5))
            stalled.sendall(request_bytes(gateway, CHAT, body))
        held_back(gateway, 4)
        for path in (CHAT, "/v1/files", "/v1/vector_stores", "/v1/responses"):
            refusal = gateway.post({"model": "m", "messages": []}, path=path)
            assert refusal.status_code == 429 and "share" in refusal.json()["error"]["message"], path
            assert refusal.headers["retry-after"] == "1"
        assert gateway.post({"model": "m", "messages": []}, key=other).status_code == 200
        assert gateway.post({}, path="/v1/vector_stores", key=other).json()["error"]["code"] == "service_unavailable"
    wait_until(lambda: gateway.chat(max_tokens=1).status_code == 200, 5, "its share to be free again")


def test_stalled_uploads_keep_nobody_from_uploading(own_gateway: Any) -> None:
    gateway = own_gateway(projects=TWO, settings={"gateway": {"body_timeout_s": 3}})
    other = gateway.known_key("other")
    form = b'--X\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--X--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=X"}
    with senders(gateway, 40, form, "/v1/files", declared=MB) as made:
        for key in (other, gateway.key):
            began = time.monotonic()
            answer = gateway.post(form, path="/v1/files", key=key, headers=kind)
            assert answer.json()["error"]["code"] == "service_unavailable", (
                "it was taken; no service is there to read it"
            )
            assert time.monotonic() - began < 3
        assert all(b"HTTP/1.1 408 " in sender.answer() for sender in made), "who never goes on is not waited for"
