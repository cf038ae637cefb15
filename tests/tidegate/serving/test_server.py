"""Our HTTP server as others see it on the wire: turns, bodies, ends of connections."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.stand import wait_until
from tidegate.serving import protocol, server
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
        told = f"{call.method} {call.path} {len(body)}".encode() + b"x" * (4_000_000 * (call.path == "/large"))
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


@pytest.mark.parametrize("line", ["GET  /x HTTP/1.1", "GET /x  HTTP/1.1", "GET   /x   HTTP/1.1"])
def test_a_request_line_has_single_spaces(stand: Stand, line: str) -> None:
    raw = f"{line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    assert stand.ask(raw).startswith(b"HTTP/1.1 400 ")
    behind = stand.ask(request("/a", b"GET /x HTTP/1.1", last=False) + raw.replace(b"/x", b"/y"))
    assert behind.startswith(b"HTTP/1.1 200 OK\r\n") and behind.count(b"HTTP/1.1 ") == 1, "nor behind another request"
    with stand.connect() as caller:
        for byte in raw[:-4]:
            caller.sendall(bytes([byte]))
        caller.sendall(raw[-4:])
        assert caller.recv(65536).startswith(b"HTTP/1.1 400 "), "nor in pieces"


def test_a_head_in_pieces_is_read_as_a_whole_one(stand: Stand) -> None:
    with stand.connect() as caller:
        for raw in (request("/a", last=False), b"\r\n" + request("/b", b"body", last=False)):
            for byte in raw:
                caller.sendall(bytes([byte]))
        whole, half = request("/c", b"body", last=False), request("/d")
        caller.sendall(whole + half[:9])
        wait_until(lambda: any(each._in_head for each in stand.server.connections), 5, "half a head")
        caller.sendall(half[9:])
        told = b"".join(iter(lambda: caller.recv(65536), b""))
    assert b"POST /a 0" in told and b"POST /b 4" in told and b"POST /c 4" in told and told.endswith(b"POST /d 0")


@pytest.mark.parametrize("name", [name.decode() for name in protocol._SINGLE])
def test_a_field_that_has_one_value_comes_once(stand: Stand, name: str) -> None:
    values = {"content-length": ("0", "0"), "transfer-encoding": ("chunked", "chunked"), "host": ("x", "x")}
    first, second = values.get(name, ("a", "b"))
    host = "" if name == "host" else "host: x\r\n"
    raw = f"POST /x HTTP/1.1\r\n{host}connection: close\r\n{name}: {first}\r\n{name.title()}: {second}\r\n\r\n"
    assert stand.ask(raw.encode()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "line",
    [
        b"GET\t/x HTTP/1.1", b"GET /x\tHTTP/1.1", b"get /x HTTP/1.1", b"GET /x\0y HTTP/1.1", b"GET /\xc3\xa4 HTTP/1.1",
        b" GET /x HTTP/1.1", b"GET x HTTP/1.1", b"GET /x HTTP/1.1 ", b"GET /x\x7f HTTP/1.1", b"CONNECT h:1 HTTP/1.1",
        b"GET /x HTTP/1.1\nx-a: b", b"GET /x#y HTTP/1.1",
    ],
)  # fmt: skip
def test_request_lines_that_servers_read_in_two_ways_are_refused(stand: Stand, line: bytes) -> None:
    assert stand.ask(line + b"\r\nhost: x\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("cut", [None, 60_000])
def test_a_target_is_part_of_the_head_and_bounded_with_it(stand: Stand, cut: int | None) -> None:
    raw = b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with stand.connect() as caller:
        caller.sendall(raw[:cut])
        if cut is not None:
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                caller.sendall(raw[cut:])
        assert caller.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_an_old_version_is_not_told_to_go_on(stand: Stand) -> None:
    with stand.connect() as caller:
        caller.sendall(b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        caller.sendall(b"hi")
        told = b"".join(iter(lambda: caller.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 200 OK\r\n") and told.endswith(b"POST / 2")


@pytest.mark.parametrize(
    "more", [b"content-length: 9000000", b"transfer-encoding: chunked", b"expect: 100-continue\r\ncontent-length: 5"]
)
def test_a_body_that_nobody_reads_ends_its_connection(stand: Stand, more: bytes) -> None:
    with stand.connect() as caller:
        caller.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\n" + more + b"\r\n\r\n")
        told = b"".join(iter(lambda: caller.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 413 ") and b"connection: close\r\n" in told


def test_a_short_body_that_nobody_reads_is_passed_over_or_not_waited_for(stand: Stand) -> None:
    head = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
    with stand.connect() as caller:
        caller.sendall(head)
        assert b"connection: close" not in caller.recv(65536)
        caller.sendall(b"hello" + request("/next"))
        assert b"".join(iter(lambda: caller.recv(65536), b"")).endswith(b"POST /next 0")
    with stand.connect() as silent:
        silent.sendall(head)
        assert silent.recv(65536) and silent.recv(1) == b"", "it is not waited for for as long as an idle one"


def asked(stand: Stand, target: str) -> socket.socket:
    """A connection on which something was asked, and nothing is read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(5)
    made.connect(("127.0.0.1", stand.port))
    made.sendall(request(target, last=False))
    return made


def test_at_the_limit_the_oldest_idle_connection_makes_room(stand: Stand) -> None:
    stand.server.max_connections = 3
    with stand.connect() as silent, stand.connect() as used, stand.connect() as asking:
        used.sendall(request(last=False))
        assert used.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: len(stand.server.connections) == 3, 5, "all three")
        asking.sendall(request("/slow", last=False))
        wait_until(lambda: len(stand.server.calls) == 1, 5, "the request")
        with stand.connect() as newcomer:
            assert silent.recv(1) == b"", "who has asked nothing goes first"
            newcomer.sendall(request("/new", last=False))
            assert newcomer.recv(65536).endswith(b"POST /new 0")
            with stand.connect() as another:
                assert used.recv(1) == b"", "then who has asked nothing for longest"
                another.sendall(request("/other"))
                assert another.recv(65536).endswith(b"POST /other 0")
        assert asking.recv(65536).endswith(b"POST /slow 0"), "and nobody who is served"
    assert b'"connections_full"' in b"".join(stand.lines)


def test_who_finds_no_room_is_told_so(stand: Stand) -> None:
    stand.server.max_connections = 1
    with stand.connect() as asking:
        asking.sendall(request("/slow"))
        wait_until(lambda: len(stand.server.calls) == 1, 5, "the request")
        refused = stand.ask(request("/b"))
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n") and b"retry-after: 1\r\n" in refused
        assert refused.count(b"HTTP/1.1 ") == 1 and b'"overloaded"' in refused
        assert asking.recv(65536).endswith(b"POST /slow 0")


def test_who_takes_nothing_of_a_response_is_not_waited_for(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the response is complete, or its application waits for room to write."""
    monkeypatch.setattr(protocol, "TAKE_TIMEOUT_S", 0.1)

    async def stream(call: Call) -> None:
        call.on_gone = stand.gone.set
        call.start(200, b"")
        while not call.gone:
            call.write(b"x" * 65536)
            await call.writable()

    stand.server._app = stream
    with asked(stand, "/endless"):
        assert stand.gone.wait(10)
        wait_until(lambda: not stand.server.connections, 5, "its connection to end")


def test_what_slow_readers_hold_together_is_bounded(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_UNTAKEN_BYTES", 10_000_000)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(asked(stand, "/large"))
        wait_until(lambda: 1 <= len(stand.server.connections) <= 2, 10, "most of them to be dropped")
        assert sum(each.untaken_bytes for each in stand.server.connections) <= 10_000_000


def test_bodies_ahead_of_their_turn_are_bounded_on_all_connections_together(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_UNREAD_BYTES", 100_000)
    ahead = request("/slow", last=False) + request("/b", b"x" * 60_000, last=False) * 3
    answers = [stand.ask(ahead + request("/last")) for _ in range(2)]
    assert [answer.count(b"HTTP/1.1 200 OK") for answer in answers] == [3, 3], "and what had come is served"
    wait_until(lambda: not stand.server.connections, 5, "both connections to end")
    assert stand.server.unread_bytes == 0


@pytest.mark.parametrize("target", ["/", "/early", "/fails"])
def test_nothing_counts_as_unread_once_it_is_read_or_its_client_has_gone(stand: Stand, target: str) -> None:
    for body in (b"x" * 300_000, b""):
        stand.ask(request(target, body))
    with stand.connect() as leaving:
        leaving.sendall(request("/slow", last=False) + request(target, b"x" * 50_000, last=False)[:-1])
        wait_until(lambda: stand.server.unread_bytes > 0, 5, "some of it")
    wait_until(lambda: not stand.server.connections and stand.server.unread_bytes == 0, 5, "it is gone")


def test_a_pipelined_request_whose_body_comes_later_is_answered(stand: Stand) -> None:
    with stand.connect() as connection:
        connection.sendall(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
        connection.sendall(b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe")
        received = b""
        while b"POST /slow 2" not in received:
            received += connection.recv(65536)
        connection.sendall(b"llo")
        while b"POST /b 5" not in received:
            received += connection.recv(65536)


@pytest.mark.parametrize("line", [b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/2.0", b"GET /"])
def test_a_request_line_has_single_spaces_and_a_known_version(stand: Stand, line: bytes) -> None:
    """Also where the same line, well formed, follows in the same packet."""
    with stand.connect() as connection:
        connection.sendall(line + b"\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
