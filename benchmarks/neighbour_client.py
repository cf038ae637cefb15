"""The neighbour: requests at a steady pace, whatever the responses take. The plan comes as JSON on standard input.

A process of its own on the core of the load generators, at a high priority where it may have one. A latency is counted from
the moment at which the request was due, so that requests which could not be sent in time count as slow. Anything but the
expected response, and none within `TIMEOUT_S`, is an error; its latency is `ERROR_MS`.
"""

import asyncio
import base64
import contextlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.attacker import Connection

TIMEOUT_S = 10.0
ERROR_MS = 60_000.0
"""Stands for a response that never came: JSON knows no infinity."""
_MAX_KEPT_BYTES = 65_536


class Call(Connection):
    """A connection that keeps the beginning of the response's body."""

    body = b""

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        super().on_body(body)
        if len(self.body) < _MAX_KEPT_BYTES:
            self.body += body


@dataclass
class Surface:
    """Requests of one kind."""

    name: str
    per_s: float
    request: bytes
    expected: bytes
    first_byte: bool
    """The latency ends with the first byte of the body, not with its last."""
    idle: list[Call] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


async def _call(surface: Surface, port: int, due: float) -> None:
    loop = asyncio.get_running_loop()
    connection: Call | None = None
    try:
        async with asyncio.timeout_at(due + TIMEOUT_S):
            while surface.idle and connection is None:
                kept = surface.idle.pop()
                connection = kept if kept.usable else None
            if connection is None:
                _, connection = await loop.create_connection(lambda: Call(surface.request), "127.0.0.1", port)
            connection.body, offset = b"", loop.time() - time.perf_counter()
            status = await connection.call()
            ended = connection.first_at + offset if surface.first_byte else loop.time()
            if status != 200 or surface.expected not in connection.body:
                _fail(surface, str(status) if status != 200 else "unexpected body")
                return
            surface.latencies_ms.append((ended - due) * 1000)
            surface.idle.append(connection)
    except (OSError, TimeoutError) as error:
        _fail(surface, type(error).__name__)
        if connection is not None:
            connection.close()


def _fail(surface: Surface, reason: str) -> None:
    surface.errors[reason] += 1
    surface.latencies_ms.append(ERROR_MS)


async def _pace(surface: Surface, port: int, seconds: float, offset: float) -> None:
    loop = asyncio.get_running_loop()
    began, tasks = loop.time() + offset / surface.per_s, []
    for number in range(int(seconds * surface.per_s)):
        due = began + number / surface.per_s
        await asyncio.sleep(due - loop.time())
        tasks.append(asyncio.ensure_future(_call(surface, port, due)))
    await asyncio.gather(*tasks)


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """What was measured, by surface."""
    surfaces = [
        Surface(
            each["surface"],
            each["per_s"],
            base64.b64decode(each["request"]),
            each["expected"].encode(),
            each["first_byte"],
        )
        for each in plan["calls"]
    ]
    shares = [number / len(surfaces) for number in range(len(surfaces))]
    await asyncio.gather(
        *(_pace(each, plan["port"], plan["seconds"], share) for each, share in zip(surfaces, shares, strict=True))
    )
    return {each.name: {"latencies_ms": each.latencies_ms, "errors": each.errors} for each in surfaces}


def main() -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    json.dump(uvloop.run(run(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
