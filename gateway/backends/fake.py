"""A scriptable upstream: a raw-socket model server that can misbehave to the byte, and keeps its own true count.

Run it with `python -m gateway.backends.fake --port 8101`. Without a script it answers like an OpenAI server. A request
names a script by the field `fake_script`; `PUT /__scripts/NAME` stores one, a JSON list of steps:

    {"send": "text"} · {"send_b64": "…"} · {"sleep_ms": 50} · {"stall": true} · {"cut": "fin" | "rst"}

`PUT /__early/NAME` makes the next request be answered by that script as soon as its head is there; its body is not read.
`PUT /__turns/MODEL` stores a list of scripts' names; requests for that model that name none take them one after the other.
Steps write raw bytes, status line and all. `GET /__truth` tells requests, answers, cancels, tokens and what is open now.
`GET /__seen` gives the heads and bodies of the last requests (base64), `DELETE /__seen` forgets them and the counts.
Without a script these fields steer the answer: `max_tokens` (64), `fake_pace_ms` (0) between chunks, `fake_text`.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import signal
import socket
import struct
import time
from collections import deque
from typing import Any, cast

import httptools
import msgspec
import uvloop

from gateway.backends.fake_answers import NOT_FOUND, PROMPT_TOKENS, STREAMED, Answers, FakeRequest, head, is_known

_decode = msgspec.json.Decoder(FakeRequest).decode


class Truth:
    """What really happened, by the model server's own count."""

    def __init__(self) -> None:
        self.connections = 0
        self.open_connections = 0
        self.forget()

    def forget(self) -> None:
        """Sets the counts of requests back to nothing."""
        self.requests = self.answered = self.cancelled = self.open_requests = self.output_tokens = 0
        self.received_bytes = 0
        self.last_cancelled_at = 0.0
        self.seen: deque[dict[str, str]] = deque(maxlen=50)

    def as_json(self) -> dict[str, float]:
        """The counts; `cancelled` are requests whose connection closed before their answer was complete, the last one
        of them at `last_cancelled_at` of the machine's monotonic clock, in seconds.
        """
        return {
            "requests": self.requests,
            "answered": self.answered,
            "cancelled": self.cancelled,
            "open_requests": self.open_requests,
            "output_tokens": self.output_tokens,
            "received_bytes": self.received_bytes,
            "last_cancelled_at": self.last_cancelled_at,
            "prompt_tokens": PROMPT_TOKENS * self.answered,
            "connections": self.connections,
            "open_connections": self.open_connections,
        }


class Fake:
    """Scripts, counts and answers shared by all connections."""

    def __init__(self, *, keep_seen: bool = True) -> None:
        self.truth = Truth()
        self.scripts: dict[str, list[dict[str, Any]]] = {}
        self.turns: dict[str, list[str]] = {}
        self.early: str | None = None
        self.keep_seen = keep_seen
        self.answers = Answers()


class FakeConnection(asyncio.Protocol):
    """One caller's connection."""

    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._answering = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._reset()

    def _reset(self) -> None:
        self._url, self._body = b"", bytearray()
        self._headers: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._fake.truth.connections += 1
        self._fake.truth.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol; an answer still under way counts as cancelled."""
        self._fake.truth.open_connections -= 1
        self._transport = None
        if self._task is not None:
            self._task.cancel()
        if self._answering:
            self._settle(cancelled=True)

    def pause_writing(self) -> None:
        """See asyncio.Protocol; a script waits then, as a model server's stream does."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self._fake.early is not None and not self._url.startswith(b"/__") and self._transport is not None:
            name, self._fake.early = self._fake.early, None
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel would take megabytes in its place
            self._transport.pause_reading()
            self._fake.truth.requests += 1
            self._fake.truth.open_requests += 1
            self._answering = True
            self._task = asyncio.ensure_future(self._play(self._fake.scripts[name]))

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._body += body
        self._fake.truth.received_bytes += len(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._answering:
            return  # from before the body was there
        path, method = self._url.decode().partition("?")[0], self._parser.get_method().decode()
        if path.startswith("/__") or method == "GET":
            self._control(method, path)
            self._reset()
            return
        try:
            request = _decode(bytes(self._body))
        except msgspec.DecodeError:
            request = FakeRequest()
        if request.fake_script is None and not is_known(path) and not self._fake.turns.get(request.model):
            self._write(NOT_FOUND)
            self._reset()
            return
        truth = self._fake.truth
        truth.requests += 1
        truth.open_requests += 1
        self._answering = True
        if self._fake.keep_seen:
            seen = {"path": path, "headers": json.dumps(self._headers), "body": base64.b64encode(self._body).decode()}
            truth.seen.append(seen)
        self._reset()
        self._answer(request, path)

    def _answer(self, request: FakeRequest, path: str) -> None:
        tokens = request.max_completion_tokens or request.max_tokens or 64
        turns = self._fake.turns.get(request.model)
        if request.fake_script is None and turns:
            request.fake_script = turns.pop(0)
        if request.fake_script is not None:
            steps = self._fake.scripts.get(request.fake_script, [{"cut": "fin"}])
            self._task = asyncio.ensure_future(self._play(steps))
        elif not request.stream or path not in STREAMED:
            if request.fake_pace_ms:
                self._task = asyncio.ensure_future(self._whole_later(request, tokens, path))
            else:
                self._write(self._fake.answers.whole(request, tokens, path))
                self._settle(tokens=tokens)
        elif request.fake_pace_ms:
            self._task = asyncio.ensure_future(self._pace(request, tokens, path))
        else:
            self._write(
                head(200, "text/event-stream", None) + b"".join(self._fake.answers.events(request, tokens, path))
            )
            self._settle(tokens=tokens)

    async def _whole_later(self, request: FakeRequest, tokens: int, path: str) -> None:
        await asyncio.sleep(request.fake_pace_ms / 1000)
        self._write(self._fake.answers.whole(request, tokens, path))
        self._settle(tokens=tokens)

    async def _pace(self, request: FakeRequest, tokens: int, path: str) -> None:
        self._write(head(200, "text/event-stream", None))
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number, event in enumerate(self._fake.answers.events(request, tokens, path)):
            if number < tokens:
                due += request.fake_pace_ms / 1000
                await asyncio.sleep(due - loop.time())
                self._fake.truth.output_tokens += 1
            self._write(event)
        self._settle()

    async def _play(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            await self._writable.wait()
            if "send" in step:
                self._write(step["send"].encode())
            elif "send_b64" in step:
                self._write(base64.b64decode(step["send_b64"]))
            elif "sleep_ms" in step:
                await asyncio.sleep(step["sleep_ms"] / 1000)
            elif "stall" in step:
                await asyncio.Event().wait()
            elif "cut" in step and self._transport is not None:
                self._settle()
                if step["cut"] == "rst":  # a socket closed without lingering sends RST instead of FIN
                    raw = self._transport.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._transport.abort()
                else:
                    self._transport.close()
                return
        self._settle()

    def _settle(self, *, tokens: int = 0, cancelled: bool = False) -> None:
        truth = self._fake.truth
        self._answering = False
        truth.open_requests -= 1
        truth.output_tokens += tokens
        if cancelled:
            truth.cancelled += 1
            truth.last_cancelled_at = time.monotonic()
        else:
            truth.answered += 1

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _control(self, method: str, path: str) -> None:
        fake, truth = self._fake, self._fake.truth
        answer: object = {"status": "ok"}
        if path == "/__truth":
            answer = truth.as_json()
        elif path == "/__seen" and method == "DELETE":
            truth.forget()
        elif path == "/__seen":
            answer = list(truth.seen)
        elif path.startswith("/__scripts/") and method == "PUT":
            fake.scripts[path.removeprefix("/__scripts/")] = json.loads(self._body)
        elif path.startswith("/__turns/") and method == "PUT":
            fake.turns[path.removeprefix("/__turns/")] = json.loads(self._body)
        elif path.startswith("/__early/") and method == "PUT":
            fake.early = path.removeprefix("/__early/")
        elif path == "/v1/models":
            answer = {"object": "list", "data": [{"id": "fake", "object": "model"}]}
        body = json.dumps(answer).encode()
        self._write(head(200, "application/json", len(body)) + body)


async def serve(host: str, port: int, fake: Fake) -> None:
    """Serves until SIGTERM or SIGINT; prints the address it listens on."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: FakeConnection(fake), host, port, backlog=2048)
    address = server.sockets[0].getsockname()
    print(f"fake upstream on http://{address[0]}:{address[1]}", flush=True)  # noqa: T201
    await stop.wait()
    server.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101)
    parser.add_argument("--forget", action="store_true", help="keep no request bodies (for load tests)")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(arguments.host, arguments.port, Fake(keep_seen=not arguments.forget)))


if __name__ == "__main__":
    main()
