"""The knowledge service, with every step of its event loop timed: `python -m tests.watched_knowledge --config …`.

The environment variable HOLDS names a file; each step of more than `LONG_S` adds a line of JSON to it: seconds that passed
(`wall`), seconds that the loop's thread was computing (`cpu`), and what ran (`step`).
"""

import asyncio.events
import json
import os
import time
from typing import Any

from rag.service import build
from tidegate.serving.run import main

LONG_S = 0.02


def watch(path: str) -> None:
    """Time every step from here on."""
    run: Any = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        run(handle)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        if wall > LONG_S:
            with open(path, "a") as file:
                line = {"at": time.time(), "wall": round(wall, 4), "cpu": round(cpu, 4), "step": repr(handle)[:400]}
                file.write(json.dumps(line) + "\n")

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(os.environ["HOLDS"])
    main("knowledge", __doc__ or "", build)
