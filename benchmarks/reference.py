"""A relay that does nothing but relay: what HTTP itself costs in Python, to compare the gateway with.

One upstream, bytes as they come, both ways; keep-alive; a parser on each side that only finds the ends of messages. No key,
no limit, no metering, no guardrail, no log. `python -m benchmarks.reference --port P --upstream HOST:PORT`.
"""

import argparse
import asyncio
from typing import cast

import httptools
import uvloop


class Upstream(asyncio.Protocol):
    """A connection to the model server; serves one caller at a time."""

    def __init__(self, idle: list["Upstream"]) -> None:
        self.transport: asyncio.Transport
        self.caller: Caller | None = None
        self._idle = idle
        self._parser: httptools.HttpResponseParser

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, caller: "Caller", request: bytes) -> None:
        self.caller, self._parser = caller, httptools.HttpResponseParser(self)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        caller = self.caller
        self._parser.feed_data(data)
        if caller is not None:
            caller.transport.write(data)

    def on_message_complete(self) -> None:
        self.caller = None
        self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.caller is not None:
            self.caller.transport.close()
        elif self in self._idle:
            self._idle.remove(self)


class Caller(asyncio.Protocol):
    """A caller's connection."""

    def __init__(self, idle: list[Upstream], upstream: tuple[str, int]) -> None:
        self.transport: asyncio.Transport
        self._idle, self._upstream = idle, upstream
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        request = b"".join(self._pieces)
        self._pieces.clear()
        asyncio.get_running_loop().create_task(self._relay(request))

    async def _relay(self, request: bytes) -> None:
        if self._idle:
            upstream = self._idle.pop()
        else:
            _, upstream = await asyncio.get_running_loop().create_connection(
                lambda: Upstream(self._idle), *self._upstream
            )
        upstream.ask(self, request)


async def serve(port: int, upstream: tuple[str, int]) -> None:
    idle: list[Upstream] = []
    server = await asyncio.get_running_loop().create_server(lambda: Caller(idle, upstream), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    arguments = parser.parse_args()
    host, _, port = arguments.upstream.partition(":")
    uvloop.run(serve(arguments.port, (host, int(port))))


if __name__ == "__main__":
    main()
