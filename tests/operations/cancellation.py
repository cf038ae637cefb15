"""The states in which a caller may leave, and a caller who leaves at a known moment; for the tests and the benchmark."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.gateway.api.test_surface import ASK
from tests.stand import STREAM_HEAD, Fake, Gateway, chat_chunk, chunked, sse, wait_until

STALL: dict[str, Any] = {"stall": True}
BOUNDARY = "X"


def _first_event(path: str) -> str:
    if path != "/v1/messages":
        return sse(chat_chunk("a"))
    message = {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 1}}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
    return f"event: message_start\n{sse(message)}event: content_block_delta\n{sse(delta)}"


@dataclass(frozen=True)
class State:
    """Where a request is when its caller leaves."""

    name: str
    path: str
    stream: bool
    steps: tuple[dict[str, Any], ...] = field(compare=False)
    seen: bytes = b""
    """What the caller has received by then."""

    def __str__(self) -> str:
        where = f"{self.name}{self.path}{' stream' if self.stream else ''}"
        return where.replace("/", "-").replace(" ", "-")


def states() -> Iterator[State]:
    """Every route in every state that it has."""
    for path in ASK:
        for stream in (
            (False, True) if path in ("/v1/chat/completions", "/v1/completions", "/v1/messages") else (False,)
        ):
            yield State("before the head", path, stream, (STALL,))
            if stream:
                begun = {"send": STREAM_HEAD + chunked(_first_event(path))}
                yield State("before the first event", path, True, ({"send": STREAM_HEAD}, STALL))
                yield State("in mid-stream", path, True, (begun, STALL), b"data: ")
            else:
                half = {"send": 'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"a"'}
                yield State("in mid-answer", path, False, (half, STALL))
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        yield State("before the head", path, False, (STALL,))
        yield State(
            "in mid-stream", path, True, ({"send": STREAM_HEAD + chunked(sse(chat_chunk("a")))}, STALL), b"data: "
        )


def form(stream: bool, boundary: str = BOUNDARY) -> bytes:
    """A small upload."""
    part = f"--{boundary}\r\nContent-Disposition: form-data; name="
    return (
        f'{part}"model"\r\n\r\nm\r\n{part}"stream"\r\n\r\n{str(stream).lower()}\r\n'
        f'{part}"file"; filename="a.wav"\r\n\r\nsound\r\n--{boundary}--\r\n'
    ).encode()


def request_bytes(gateway: Gateway, path: str, body: dict[str, Any], *, stream: bool = False) -> bytes:
    """A whole request as it goes over the wire."""
    upload = "/audio/" in path
    raw = form(stream) if upload else json.dumps(body).encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}" if upload else "application/json"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-type: {kind}\r\n"
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


@contextmanager
def caller(gateway: Gateway, path: str, body: dict[str, Any], *, stream: bool = False) -> Iterator[socket.socket]:
    """A connection on which the request has been sent."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sender:
        sender.sendall(request_bytes(gateway, path, body, stream=stream))
        yield sender


def leave(gateway: Gateway, fake: Fake, state: State) -> float:
    """Brings a request into `state` and leaves; seconds until the model server's connection was closed."""
    script = fake.script(f"leave-{state}", *state.steps)
    body = {"model": "m", "stream": state.stream, "fake_script": script, **ASK.get(state.path, {})}
    if "/audio/" in state.path:
        fake.turn("fake", script)
    fake.forget()
    with caller(gateway, state.path, body, stream=state.stream) as sender:
        wait_until(lambda: fake.truth()["open_requests"] == 1, 5, "the request to arrive")
        received = b""
        while state.seen and state.seen not in received:
            received += sender.recv(65536)
        time.sleep(0.01)  # whatever else is on its way has arrived then
        left = time.monotonic()
    truth = wait_until(lambda: truth if (truth := fake.truth())["cancelled"] == 1 else None, 5, "the cancellation")
    assert truth["open_requests"] == truth["answered"] == 0
    return float(truth["last_cancelled_at"] - left)
