"""Our HTTP server as others see it on the wire: turns, bodies, ends of connections."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stand import wait_until
from tidegate.serving import protocol
from tidegate.serving.call import Call
from tidegate.serving.run import Door, listen
from tidegate.serving.server import Server
from tidegate.telemetry.logs import JsonLog


class Stand:
    """A server on a loop in a thread. `/slow` answers after a moment, `/early` without reading, `/fails` not at all."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.gone = threading.Event()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.server, self.port = self.run(self._listen())

    async def _listen(self) -> tuple[Server, int]:
        listener = listen(Door("x", "127.0.0.1", 0))
        server = Server(self._app, JsonLog("x", "info", self.lines.append), keep_alive_s=75)
        await server.listen(listener)
        return server, listener.getsockname()[1]

    async def _app(self, call: Call) -> None:
        call.on_gone = self.gone.set
        if call.path == "/fails":
            raise ValueError("secret")
        if call.path == "/slow":
            await asyncio.sleep(0.2)
        body = b""
        while call.path != "/early" and (message := await call.receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        told = f"{call.method} {call.path} {len(body)}".encode()
        if call.path == "/stream":
            call.start(200, b"x-a: b\r\n")
            for letter in told:
                call.write(bytes([letter]))
            call.end()
        else:
            call.start(413 if call.path == "/early" else 200, b"", len(told))
            call.end(told)

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def close(self) -> None:
        self.run(self.server.wait_until_idle(5))
        self.run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def ask(self, raw: bytes) -> bytes:
        """What comes back until the server closes."""
        with self.connect() as caller:
            caller.sendall(raw)
            return b"".join(iter(lambda: caller.recv(65536), b""))


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.close()


def request(target: str = "/", body: bytes = b"", *, method: str = "POST", last: bool = True, more: str = "") -> bytes:
    close = "connection: close\r\n" if last else ""
    head = f"{method} {target} HTTP/1.1\r\nhost: x\r\n{close}{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_answers_come_in_the_order_of_the_requests(stand: Stand) -> None:
    raw = request("/slow", b"a", last=False) + request("/b", b"bb", last=False) + request("/c%20d?q=1", b"ccc")
    answer = stand.ask(raw)
    assert [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"POST /slow 1",
        b"POST /b 2",
        b"POST /c d 3",
    ]


def test_too_many_requests_ahead_of_their_answers_are_not_taken(stand: Stand) -> None:
    answer = stand.ask(request("/slow", last=False) + request("/b", last=False) * 5000)
    assert answer.count(b"HTTP/1.1 200 OK") == 1 + protocol.MAX_WAITING


def test_nonsense_behind_a_request_does_not_spoil_its_answer(stand: Stand) -> None:
    answer = stand.ask(request("/slow", last=False) + b"NONSENSE\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"POST /slow 0")


def test_a_refusal_is_readable_although_the_body_still_comes(stand: Stand) -> None:
    """A socket that is closed with unread bytes in it is reset, and what it had said may be lost."""
    with stand.connect() as caller:
        caller.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9000000\r\n\r\n")
        for _ in range(20):
            caller.sendall(b"x" * 65536)
        received = b"".join(iter(lambda: caller.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 413 ") and received.endswith(b"POST /early 0")


def test_a_large_body_in_chunks_arrives_whole(stand: Stand) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [b"a" * 100_000] * 9) + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    assert stand.ask(head + chunks).endswith(b"POST / 900000")


def test_a_stream_is_chunked_for_new_and_ends_with_the_connection_for_old_callers(stand: Stand) -> None:
    new = stand.ask(request("/stream"))
    assert b"transfer-encoding: chunked\r\n" in new and b"x-a: b\r\n" in new
    assert new.endswith(b"1\r\n0\r\n0\r\n\r\n") and new.count(b"\r\ndate: ") == 1
    old = stand.ask(b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"chunked" not in old and b"connection: close" in old and old.endswith(b"\r\n\r\nGET /stream 0")


def test_who_connects_just_before_the_end_is_answered(stand: Stand) -> None:
    with stand.connect() as new, stand.connect() as silent:
        wait_until(lambda: len(stand.server.connections) == 2, 5, "the connections")
        closing = asyncio.run_coroutine_threadsafe(stand.server.close(), stand.loop)
        time.sleep(0.2)
        new.sendall(request(last=False))
        answer = b"".join(iter(lambda: new.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ") and b'"stopping"' in answer
        assert silent.recv(1) == b"", "it is not waited for for long"
        closing.result(5)


def test_who_has_a_successor_serves_on_until_no_connection_is_in_use(stand: Stand) -> None:
    with stand.connect() as used:
        used.sendall(request("/a", last=False))
        assert used.recv(65536).endswith(b"POST /a 0")
        stand.loop.call_soon_threadsafe(stand.server.stop_listening)
        waiting = asyncio.run_coroutine_threadsafe(stand.server.wait_until_quiet(10, again=True), stand.loop)
        time.sleep(0.3)
        used.sendall(request("/b"))
        assert b"".join(iter(lambda: used.recv(65536), b"")).endswith(b"POST /b 0")
        assert waiting.result(5)


def test_head_gets_no_body(stand: Stand) -> None:
    answer = stand.ask(request("/x", method="HEAD"))
    assert b"content-length: 9\r\n" in answer and answer.endswith(b"\r\n\r\n")


def test_an_upgrade_is_ignored(stand: Stand) -> None:
    upgrade = "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    chunked = (
        f"POST /y HTTP/1.1\r\nhost: x\r\n{upgrade}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
    )
    nothing = f"GET /z HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n".encode()
    answer = stand.ask(request("/x", b"hello", last=False, more=upgrade) + chunked + nothing + request("/last"))
    told = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert told == [b"POST /x 5", b"POST /y 5", b"GET /z 0", b"POST /last 0"]
    with stand.connect() as caller:  # and where the body comes later
        caller.sendall(f"POST /late HTTP/1.1\r\nhost: x\r\n{upgrade}content-length: 4\r\n\r\n".encode())
        caller.sendall(b"body" + request("/last"))
        assert b"POST /late 4" in b"".join(iter(lambda: caller.recv(65536), b""))


def test_a_caller_who_asks_first_is_told_to_go_on(stand: Stand) -> None:
    with stand.connect() as caller:
        caller.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert caller.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(b"hi")
        assert b"".join(iter(lambda: caller.recv(65536), b"")).endswith(b"POST / 2")


def test_a_defect_is_an_answer_without_a_secret(stand: Stand) -> None:
    answer = stand.ask(request("/fails"))
    assert answer.startswith(b"HTTP/1.1 500 ") and b"secret" not in answer
    assert b'"error":"ValueError"' in b"".join(stand.lines) and b"secret" not in b"".join(stand.lines)


def test_a_hang_up_is_told_at_once(stand: Stand) -> None:
    with stand.connect() as caller:
        caller.sendall(request("/slow", last=False))
    assert stand.gone.wait(1)


def test_who_is_slow_with_a_head_or_idle_for_long_is_not_waited_for(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    stand.server._keep_alive_s = 0.1
    with stand.connect() as silent, stand.connect() as slow, stand.connect() as idle:
        slow.sendall(b"POST / HTTP/1.1\r\nhost:")
        idle.sendall(request(last=False))
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        assert silent.recv(1) == b"" and idle.recv(1) == b""
        assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
