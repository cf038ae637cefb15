"""Sends one hostile load until SIGTERM: `python -m benchmarks.attacker LOAD` with a `Target` as JSON on standard input.

A process of its own on the core of the load generators, at the lowest priority. Prints `ready` once the request is built,
begins at the next line of standard input, and prints one JSON object of what happened at the end.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks.hostile_loads import LOADS, Load, Target
from benchmarks.load import Caller

TIMEOUT_S = 30.0
SIP_BYTES, SIP_EVERY_S = 1024, 0.1
CHUNK_BYTES = 65_536


class Connection(Caller):
    """A connection that knows when it has ended."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.ended = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        return not self.ended.is_set() and self._transport is not None and not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self.ended.set()

    def close(self) -> None:
        """Ends the connection without a farewell."""
        if self._transport is not None:
            self._transport.abort()


class Attack:
    """One load under way."""

    def __init__(self, load: Load, target: Target) -> None:
        self._load = load
        self._port = target.port
        self._request = load.request(target)
        self._next = 0.0
        self.results: Counter[str] = Counter()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        work = {"ask": self._ask, "hold": self._hold, "sip": self._sip, "churn": self._churn}[self._load.manner]
        await asyncio.gather(*(self._repeat(work) for _ in range(self._load.connections)))

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await self._turn()
                await work()
            except (OSError, TimeoutError) as error:
                self.results[type(error).__name__] += 1

    async def _turn(self) -> None:
        """Waits until the next request may be sent."""
        loop = asyncio.get_running_loop()
        at = max(loop.time(), self._next)
        self._next = at + 1 / self._load.per_s
        await asyncio.sleep(at - loop.time())

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Connection(self._request), "127.0.0.1", self._port)
        return made

    async def _ask(self) -> None:
        connection = await self._open()
        try:
            while connection.usable:
                async with asyncio.timeout(TIMEOUT_S):
                    self.results[str(await connection.call())] += 1
                await self._turn()
        finally:
            connection.close()

    async def _hold(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._request[: int(len(self._request) * self._load.share)])
            self.results["held"] += 1
            first = await reader.read(CHUNK_BYTES)
            self.results[first[9:12].decode("latin-1") or "closed"] += 1
        finally:
            writer.transport.abort()

    async def _sip(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as raw:
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(raw, ("127.0.0.1", self._port))
            await loop.sock_sendall(raw, self._request)
            self.results["held"] += 1
            while True:
                await asyncio.sleep(SIP_EVERY_S)
                if not await loop.sock_recv(raw, SIP_BYTES):
                    self.results["closed"] += 1
                    return

    async def _churn(self) -> None:
        connection = await self._open()
        self.results["opened"] += 1
        connection.close()


async def attack(made: Attack) -> None:
    """Runs until SIGTERM."""
    task = asyncio.ensure_future(made.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    os.nice(19)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    target = Target(**json.loads(sys.stdin.readline()))
    made = Attack(LOADS[sys.argv[1]], target)
    print("ready", flush=True)
    sys.stdin.readline()
    uvloop.run(attack(made))
    json.dump(made.results, sys.stdout)


if __name__ == "__main__":
    main()
