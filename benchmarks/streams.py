"""A thousand streams at once on one core, ten chunks a second each: how even they arrive, side by side with vllm-router.

Upstream and callers share the other core. `python -m benchmarks.streams` writes benchmarks/results/streams.json.
"""

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import uvloop

from benchmarks import performance
from benchmarks.load import Caller, head_of
from benchmarks.stage import OTHER_CORE, ROOT, System, check_books, circumstances, pinned, stage, store, version_of

RESULT = ROOT / "benchmarks" / "results" / "streams.json"
STREAMS, CHUNKS, PACE_MS = 1000, 64, 100


class Listener(Caller):
    """One caller, who notes the time between two chunks."""

    def __init__(self, request: bytes, gaps_ms: list[float]) -> None:
        super().__init__(request)
        self._gaps_ms = gaps_ms
        self._last = 0.0

    def on_body(self, body: bytes) -> None:
        now = time.perf_counter()
        if self._last:
            self._gaps_ms.append((now - self._last) * 1000)
        self._last = now
        super().on_body(body)


async def listen(port: int, key: str) -> dict[str, Any]:
    """All streams at once, begun over one pace so that they do not march in step."""
    loop, gaps_ms = asyncio.get_running_loop(), list[float]()
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": CHUNKS}
    content = json.dumps({**body, "fake_pace_ms": PACE_MS}).encode()
    request = head_of(port, key, len(content)) + content

    async def one(number: int) -> bool:
        await asyncio.sleep(number * PACE_MS / 1000 / STREAMS)
        _, caller = await loop.create_connection(lambda: Listener(request, gaps_ms), "127.0.0.1", port)
        status = await caller.call()
        return status == 200 and b"[DONE]" in caller.body_tail and caller.chunks >= CHUNKS

    whole = await asyncio.gather(*(one(number) for number in range(STREAMS)), return_exceptions=True)
    gaps_ms.sort()
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    return {
        "streams": STREAMS,
        "lost": sum(item is not True for item in whole),
        "gap_ms": {name: round(gaps_ms[int(len(gaps_ms) * share)], 1) for name, share in shares.items()}
        | {"worst": round(gaps_ms[-1], 1)},
    }


def measure(system: System) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.streams", "--port", str(system.port), "--key", system.key]
    system.sent += STREAMS
    before, began = system.cpu_ns(), time.monotonic()
    done = subprocess.run(pinned(OTHER_CORE, argv), capture_output=True, text=True, cwd=ROOT, timeout=120, check=True)
    busy = (system.cpu_ns() - before) / 1e9 / (time.monotonic() - began)
    return {**json.loads(done.stdout), "core_busy": round(busy, 2), "rss_mb": system.rss_mb()}


def main() -> None:
    if "--port" in sys.argv:  # the listening half, in a process of its own
        port, key = sys.argv[sys.argv.index("--port") + 1], sys.argv[sys.argv.index("--key") + 1]
        print(json.dumps(uvloop.run(listen(int(port), key))))
        return
    with stage() as made, store() as (store_url, _):
        systems = [made.start_upstream(), made.start_tidegate(store_url), made.start_vllm_router()]
        found = {system.name: [measure(system) for _ in range(3)] for system in systems}
        check_books(systems[1])
    result = {
        **circumstances(),
        "vllm-router": version_of("vllm_router"),
        "runs": found,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    performance.write()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
