"""Mutated HTTP requests, read by the server of every service and by h11: never two readings, never a hang.

`FUZZ_SEED` and `FUZZ_SECONDS` in the environment repeat a run; the seed is printed, and each failure prints its bytes.
"""

import asyncio
import base64
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import pytest

from tests.stand import Process, free_port, http

pytestmark = pytest.mark.services
SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
AT_ONCE, BATCH = 16, 160
CLOSE_TIMEOUT_S = 5.0
MORE_TIMEOUT_S = 0.2
"""How long a connection may be silent before the client closes its side."""
MAX_INCOMPLETE_BYTES = 131_072

METHODS = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"get",
    b"PO ST",
    b"PRI",
    b"",
]
TARGETS = [
    b"/", b"/v1/chat/completions", b"/v1%2Fchat", b"/a?b=c#d", b"*", b"http://x/a", b"x:443", b"//x/a", b"/\xff", b"/a b",
    b"/\x7f", b"/a\t", b"", b"/%00", b"/..//.", b"?q", b"/[x]", b"/a\\b",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1"] * 40 + [
    b"HTTP/1.0",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/11",
]
NAMES = [b"x-a", b"X-B", b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"x a",
         b"x-a ", b"", b"x\x00", b"x:", b"\tx", b"keep-alive", b"te", b"trailer",
         b"cookie", b"Content_Length", b"content-length\x0b"]  # fmt: skip
VALUES = [b"", b"a", b" a ", b"\ta\t", b"5", b"0", b"+5", b"-1", b"0x5", b"5, 5", b"5,6", b"5 ", b"005", b"chunked", b"Chunked",
          b"chunked, chunked", b"gzip, chunked", b"chunked, identity", b"identity", b"chunked;q=1", b",chunked", b"\x0bchunked",
          b"close", b"keep-alive", b"upgrade", b"close, upgrade", b"h2c", b"websocket", b"100-continue", b"a\x00b", b"a\rb",
          b"a\nb",          b"a\xffb", b"a\x7fb", b"18446744073709551621", b"5\x0b", b"x" * 300]  # fmt: skip
ENDS = [b"\r\n"] * 150 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n "]
SIZES = [
    b"%x",
    b"%X",
    b"0%x",
    b"%x;a=b",
    b'%x;a="b;c"',
    b"%x ;a",
    b"%x\t",
    b" %x",
    b"0x%x",
    b"%x;",
    b"+%x",
    b"%x;a=\xff",
    b"%x;a\rb",
    b"f%x",
]
TRAILERS = [
    b"",
    b"",
    b"x-t: 1\r\n",
    b"content-length: 5\r\n",
    b"host: evil\r\n",
    b"x t: 1\r\n",
    b"x-t\r\n",
    b" folded\r\n",
    b"x: a\nb\r\n",
]
FRAMING = (b"content-length", b"transfer-encoding", b"host", b"connection")
SPLICES = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\x00",
    b":",
    b"\x0b",
    b"\x85",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
]


@dataclass
class Reading:
    """One request as a server read it; `body` is None if its end was not there."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes | None = None


@dataclass
class Expected:
    """What h11 made of the bytes."""

    readings: list[Reading] = field(default_factory=list)
    rejected: bool = False
    ended: bool = False
    """Nothing after the last request counts."""

    @property
    def complete(self) -> int:
        """Requests that are there to their end."""
        return sum(reading.body is not None for reading in self.readings)


@dataclass
class Outcome:
    """What the server did: the client's port, the bytes that came back, and whether the connection never ended."""

    port: int
    received: bytes
    hung: bool
    reset: bool
    """The server closed while more was sent, which may cost the client the last response."""


def _single_spaces(wire: bytes, reading: Reading) -> bytes:
    """The bytes with single spaces in the request lines that are this reading's."""
    method, target = (re.escape(text.encode("latin-1")) for text in (reading.method, reading.target))
    return re.sub(rb"(%b) +(%b) +HTTP/1\.(?=[01]\r?\n)" % (method, target), rb"\1 \2 HTTP/1.", wire)


LENIENCIES: dict[str, Callable[[bytes, Reading], bytes]] = {
    # The parser skips them and does not say where a request line begins; a whole line elsewhere in the same piece hides it.
    "several spaces in the request line of a request that came in one piece with the one before": _single_spaces,
}
"""Where the server may read a request that h11 rejects: as h11 would read the bytes once they are rewritten, and never the
first request of a connection.
"""


def mutated(rng: random.Random) -> bytes:
    """One or more requests, most of them almost valid."""
    wire = b"".join(_request(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        at = rng.randrange(len(wire) + 1)
        match rng.randrange(4):
            case 0:
                wire = wire[:at] + rng.choice(SPLICES) + wire[at:]
            case 1:
                wire = wire[:at] + wire[at + rng.randint(1, 4) :]
            case 2:
                wire = wire[:at] + bytes([rng.randrange(256)]) + wire[at + 1 :]
            case _:
                other = rng.randrange(len(wire) + 1)
                wire = wire[: max(at, other)] + wire[min(at, other) :][:64] + wire[max(at, other) :]
    return wire[: rng.randrange(len(wire) + 1)] if rng.random() < 0.05 else wire


def _rarely(rng: random.Random, usual: bytes, others: list[bytes], share: float = 0.1) -> bytes:
    return rng.choice(others) if rng.random() < share else usual


def _request(rng: random.Random) -> bytes:
    body = (
        rng.randbytes(rng.choice((0, 1, 5, 30))) if rng.random() < 0.7 else b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    )
    lines = [b"host" + _colon(rng) + b"x"] if rng.random() < 0.95 else []
    if rng.random() < 0.5:
        lines.append(b"content-length" + _colon(rng) + _rarely(rng, b"%d" % len(body), VALUES, 0.15))
    elif rng.random() < 0.8:
        lines.append(b"transfer-encoding" + _colon(rng) + _rarely(rng, b"chunked", VALUES, 0.15))
        body = _chunks(rng, body)
    else:
        body = b""
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        name = rng.choice(FRAMING) if rng.random() < 0.4 else rng.choice(NAMES)
        lines.append(name + _colon(rng) + rng.choice(VALUES))
    rng.shuffle(lines)
    gap = _rarely(rng, b" ", [b"  ", b"\t", b" \t", b"\x0b", b""], 0.04)
    method, target = _rarely(rng, b"POST", METHODS, 0.15), _rarely(rng, b"/v1/chat/completions", TARGETS, 0.12)
    first = method + gap + target + _rarely(rng, b" ", [b"  ", b"\t", b""], 0.04) + rng.choice(VERSIONS)
    blank = _rarely(rng, b"", [b"\r\n", b"\n", b"\r\n\r\n", b" \r\n"], 0.05)
    head = b"".join(line + rng.choice(ENDS) for line in [first, *lines])
    return blank + head + rng.choice(ENDS) + body


def _colon(rng: random.Random) -> bytes:
    return _rarely(rng, b": ", [b":", b" : ", b":\t", b" :", b":  ", b":\r\n "], 0.15)


def _chunks(rng: random.Random, body: bytes) -> bytes:
    out = b""
    while body:
        piece, body = body[: (size := rng.randint(1, len(body)))], body[size:]
        out += (
            _rarely(rng, b"%x", SIZES, 0.2) % len(piece)
            + _rarely(rng, b"\r\n", ENDS)
            + piece
            + _rarely(rng, b"\r\n", ENDS)
        )
    last = _rarely(rng, b"0", [b"00", b"0;a=b", b"", b"0x0", b" 0", b"0 "], 0.1)
    return out + last + b"\r\n" + rng.choice(TRAILERS) + _rarely(rng, b"\r\n", ENDS)


def read_by_h11(wire: bytes) -> Expected:
    """The requests that h11 finds; it knows no blank lines before a request, which RFC 9112 section 2.2 allows."""
    found, rest = Expected(), wire
    while rest := rest.lstrip(b"\r\n"):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_INCOMPLETE_BYTES)
        connection.receive_data(rest)
        try:
            if not _read_one(connection, found.readings):
                return found
        except h11.RemoteProtocolError:
            found.rejected = True
            return found
        if connection.our_state is not h11.DONE:
            found.ended = True
            return found
        rest = connection.trailing_data[0]
    return found


def _read_one(connection: h11.Connection, readings: list[Reading]) -> bool:
    """Reads the next request; whether it was there to its end."""
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Request):
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("h11 reads any version as 1.1; a server need not")
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
            readings.append(Reading(event.method.decode("latin-1"), event.target.decode("latin-1"), headers))
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return False
    readings[-1].body = body
    # a CONNECT that succeeds would end HTTP; the server under test has none that does
    connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    return True


class Client(asyncio.Protocol):
    """A connection that keeps every byte, also those before a reset."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.changed = asyncio.Event()
        self.closed = self.reset = False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.received += data
        self.changed.set()

    def eof_received(self) -> None:
        """See asyncio.Protocol; the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.closed, self.reset = True, exc is not None
        self.changed.set()

    async def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until `done()` or the end; false if the connection was silent for so long."""
        while not (self.closed or done()):
            self.changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self.changed.wait()
            except TimeoutError:
                return False
        return True

    @property
    def answers(self) -> int:
        """Responses of the application so far."""
        return self.received.count(b"HTTP/1.1 200")


async def talk(port: int, wire: bytes, cuts: list[int], expected: Expected) -> Outcome:
    """Sends the bytes in pieces, waits for the responses, closes its side, waits for the server to close the other."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    own_port = transport.get_extra_info("sockname")[1]
    try:
        at = 0
        for cut in [*cuts, len(wire)]:
            if not client.closed:
                transport.write(wire[at:cut])
            await asyncio.sleep(0)
            at = cut
        if expected.complete:
            await client.wait(lambda: client.answers >= expected.complete, CLOSE_TIMEOUT_S)
        if expected.rejected or expected.ended or not expected.complete:
            await client.wait(lambda: False, MORE_TIMEOUT_S)
        if not client.closed:
            transport.write_eof()
        closed = await client.wait(lambda: False, CLOSE_TIMEOUT_S)
        return Outcome(own_port, bytes(client.received), hung=not closed, reset=client.reset)
    finally:
        transport.abort()


def fault_of(wire: bytes, expected: Expected, outcome: Outcome, readings: list[Reading]) -> str | None:
    """What is wrong, if anything."""
    if outcome.hung:
        return "the connection hangs"
    if b"HTTP/1.1 5" in outcome.received:
        return "the server failed"
    answers, last = outcome.received.count(b"HTTP/1.1 200"), b"connection: close" in outcome.received
    if answers < expected.complete and not (last or outcome.reset):
        return f"{expected.complete - answers} requests without a response"
    for number, ours in enumerate(readings):
        theirs = expected.readings[number] if number < len(expected.readings) else None
        if ours.body is None and (theirs is None or not _same_head(ours, theirs)):
            continue  # refused before its end
        fault = _differs(ours, theirs)
        if fault and not (number and _is_allowed(wire, number, ours)):
            return f"request {number + 1}: {fault}"
    return None


def _is_allowed(wire: bytes, number: int, ours: Reading) -> bool:
    for rewritten in LENIENCIES.values():
        readings = read_by_h11(rewritten(wire, ours)).readings
        if number < len(readings) and not _differs(ours, readings[number]):
            return True
    return False


def _same_head(ours: Reading, theirs: Reading) -> bool:
    headers = [(name, value.strip(" \t")) for name, value in ours.headers]
    headers = [
        (name, value.lower() if name == "transfer-encoding" else value) for name, value in headers
    ]  # as h11 does
    return (ours.method, ours.target, headers) == (theirs.method, theirs.target, theirs.headers)


def _differs(ours: Reading, theirs: Reading | None) -> str | None:
    if theirs is None:
        return f"h11 has no such request: {ours}"
    if not _same_head(ours, theirs):
        return f"{ours} is not {theirs}"
    if ours.body is not None and ours.body != theirs.body:
        return f"the body {ours.body!r} is not {theirs.body!r}"
    return None


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[tuple[int, Process]]:
    """The server's port, and the process."""
    port = free_port()
    process = Process([sys.executable, "-m", "tests.operations.echo", "--port", str(port)], tmp_path / "echo.log")
    try:
        process.wait_for(f"http://127.0.0.1:{port}/__readings", 20)
        yield port, process
    finally:
        process.kill()


async def _batch(port: int, wires: list[bytes], rng: random.Random) -> list[tuple[bytes, Expected, Outcome]]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(wire: bytes, cuts: list[int]) -> tuple[bytes, Expected, Outcome]:
        async with limit:
            expected = read_by_h11(wire)
            return wire, expected, await talk(port, wire, cuts, expected)

    cuts = [sorted(rng.randrange(len(wire) + 1) for _ in range(rng.choice((0, 0, 1, 3)))) for wire in wires]
    return await asyncio.gather(*map(one, wires, cuts))


def _decoded(rows: list[dict[str, Any]]) -> list[Reading]:
    return [
        Reading(
            row["method"],
            row["target"],
            [(name, value) for name, value in row["headers"]],
            None if row["body"] is None else base64.b64decode(row["body"]),
        )
        for row in rows
    ]


def test_mutated_requests_are_read_as_h11_reads_them_or_refused(echo: tuple[int, Process]) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    print(f"FUZZ_SEED={seed}")
    rng, (port, process) = random.Random(seed), echo
    faults: list[str] = []
    count = accepted = 0

    async def run() -> None:
        nonlocal count, accepted
        deadline = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < deadline and len(faults) < 5:
            done = await _batch(port, [mutated(rng) for _ in range(BATCH)], rng)
            readings = http.get(f"http://127.0.0.1:{port}/__readings").json()
            for wire, expected, outcome in done:
                ours = _decoded(readings.get(str(outcome.port), []))
                count, accepted = count + 1, accepted + any(reading.body is not None for reading in ours)
                if fault := fault_of(wire, expected, outcome, ours):
                    faults.append(f"{fault}\n  sent {wire!r}\n  received {outcome.received[:200]!r}")

    asyncio.run(run())
    print(f"{count} exchanges, {accepted} with a request that was accepted")
    assert faults == [], f"FUZZ_SEED={seed}\n" + "\n".join(faults)
    assert count > 10 * SECONDS and accepted > count // 20, "the mutations must leave something valid"
    assert '"event":"defect"' not in process.text()
    assert process.popen.poll() is None
