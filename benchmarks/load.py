"""The load generator: bare sockets on uvloop, one request after the other per connection. The body comes by standard input.

Prints one JSON object: latencies in ms (whole answer; its first byte), requests, chunks, errors.
"""

import argparse
import asyncio
import json
import sys
import time
from typing import cast

import httptools
import uvloop


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self.chunks = 0
        self.first_at = 0.0
        self.body_tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._parser is not None
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.first_at:
            self.first_at = time.perf_counter()  # of an answer, not of its head: some send that before there is one
        self.chunks += body.count(b"data: {")
        self.body_tail = body[-24:]

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("closed"))

    async def call(self) -> int:
        """One request; its status."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self.first_at = 0.0
        self._transport.write(self._request)
        await self._done
        return int(self._parser.get_status_code())


def head_of(port: int, key: str, length: int) -> bytes:
    """The head of a chat request."""
    lines = [f"host: 127.0.0.1:{port}", "content-type: application/json", f"content-length: {length}"]
    lines += [f"authorization: Bearer {key}"] if key else []
    return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, "", ""]).encode()


async def run(host: str, port: int, request: bytes, connections: int, total: int, stream: bool) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    left = total
    whole: list[float] = []
    first: list[float] = []
    errors = chunks = 0

    async def worker() -> None:
        nonlocal left, errors, chunks
        _, caller = await loop.create_connection(lambda: Caller(request), host, port)
        while left > 0:
            left -= 1
            began = time.perf_counter()
            status = await caller.call()
            whole.append((time.perf_counter() - began) * 1000)
            first.append((caller.first_at - began) * 1000)
            if status != 200 or (stream and b"[DONE]" not in caller.body_tail):
                errors += 1
        chunks += caller.chunks

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return {
        "requests": len(whole),
        "chunks": chunks,
        "errors": errors,
        "wall_s": time.perf_counter() - began,
        "whole_ms": percentiles(whole),
        "first_ms": percentiles(first),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--key", default="")
    arguments = parser.parse_args()
    body = sys.stdin.buffer.read()
    request = head_of(arguments.port, arguments.key, len(body)) + body
    stream = bool(json.loads(body).get("stream"))
    result = uvloop.run(run("127.0.0.1", arguments.port, request, arguments.connections, arguments.requests, stream))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
