"""Whether memory, sockets and tasks stay as they are over many requests and many callers who leave.

`python -m benchmarks.soak`, some minutes, writes benchmarks/results/soak.json. The tests run a shorter form of it.
"""

import json
import socket
import struct
import time
from pathlib import Path
from typing import Any

from benchmarks import performance
from benchmarks.load import head_of
from benchmarks.overhead import measure
from benchmarks.stage import ROOT, System, circumstances, get, stage, store
from tests.stand import wait_until

RESULT = ROOT / "benchmarks" / "results" / "soak.json"
BODY = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True, "fake_pace_ms": 50}


def cancelled(system: System, count: int, at_once: int = 50) -> None:
    """So many streams whose callers leave after the first bytes, a third of them by a reset."""
    body = json.dumps(BODY).encode()
    request = head_of(system.port, system.key, len(body)) + body
    for begun in range(0, count, at_once):
        callers = [socket.create_connection(("127.0.0.1", system.port)) for _ in range(min(at_once, count - begun))]
        for caller in callers:
            caller.sendall(request)
        for number, caller in enumerate(callers):
            caller.recv(4096)
            if number % 3 == 0:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.close()
        system.sent += len(callers)


def state(system: System) -> dict[str, float]:
    """What the process holds."""
    assert system.process is not None
    wait_until(lambda: not _metric(system, "tidegate_inflight_requests"), 10, "nothing to be in flight")
    return {
        "requests": system.sent,
        "rss_mb": system.rss_mb() or 0,
        "descriptors": len(list(Path(f"/proc/{system.process.popen.pid}/fd").iterdir())),
        "tasks": _metric(system, "tidegate_tasks"),
    }


def _metric(system: System, name: str) -> float:
    text = (get(f"http://127.0.0.1:{system.management_port}/metrics") or b"").decode()
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


def curve(system: System, requests: int, cancels: int, steps: int) -> list[dict[str, float]]:
    """The state at the beginning, once it is warm, and after every step."""
    measure(system, "json", 16, 2000)
    measure(system, "burst", 16, 1000)
    cancelled(system, 200)
    found = [state(system)]
    for _ in range(steps):
        measure(system, "json", 16, requests // steps * 3 // 4)
        measure(system, "burst", 16, requests // steps // 4)
        cancelled(system, cancels // steps)
        found.append(state(system))
    return found


def run(requests: int, cancels: int, steps: int) -> dict[str, Any]:
    with stage() as made, store() as (store_url, _):
        made.start_upstream()
        found = curve(made.start_tidegate(store_url), requests, cancels, steps)
    return {
        **circumstances(),
        "requests": requests,
        "cancelled": cancels,
        "curve": found,
    }


def main() -> None:
    began = time.monotonic()
    result = run(100_000, 10_000, 10)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    performance.write()
    print(json.dumps(result["curve"], indent=1), f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
