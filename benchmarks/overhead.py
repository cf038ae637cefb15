"""What the gateway costs: CPU and latency, side by side with going direct, vllm-router, sglang-router and LiteLLM.

All systems face the same fake upstream with the same body; the system under test is pinned to core 0, upstream and load
generator to core 1. Rounds are interleaved, the table holds medians, ratios are medians of a round's pairs. Tidegate runs with
the settings of `deploy/tidegate.production.yaml` (keys, guardrail PAN both ways, journal, database, metrics, log lines, traces
sampled at 1 %); only addresses and the project's limits are replaced. It runs as an image has it, with its request path
compiled; a second time from source; and where the machine has a distribution's Python, compiled by that one, too. Afterwards N
requests must have given N usage rows and N in the metrics, else the run is void. LiteLLM takes part where `.venv-litellm`
holds it.

Usage: `make bench` or `python -m benchmarks.overhead [--rounds 5] [--quick]`. Writes benchmarks/results/overhead.json.
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import performance
from benchmarks.readme import write_table
from benchmarks.stage import (
    DISTRIBUTION_PYTHON,
    LITELLM_ENV,
    OTHER_CORE,
    ROOT,
    System,
    check_books,
    circumstances,
    pinned,
    stage,
    store,
    version_of,
)

RESULT = ROOT / "benchmarks" / "results" / "overhead.json"
CHUNKS = 64
PROMPT = "Summarise the settlement procedure for card payments in two sentences. " * 12

MODES: dict[str, dict[str, Any]] = {
    "json": {"max_tokens": CHUNKS},
    "burst": {"max_tokens": CHUNKS, "stream": True},
    "paced": {"max_tokens": CHUNKS, "stream": True, "fake_pace_ms": 20},
}
PLAN = [("json", 1, 1500), ("json", 16, 4000), ("json", 64, 4000), ("json", 256, 4096)]
PLAN += [("burst", 1, 800), ("burst", 16, 2000), ("burst", 64, 2000), ("burst", 256, 2048)]
PLAN += [("paced", 1, 3), ("paced", 16, 64), ("paced", 64, 192), ("paced", 256, 512)]
SLOW = {"litellm"}
"""Systems that get a twentieth of the requests: they would take an hour."""
UNPACED = {"sglang-router"}
"""Systems that drop the request fields they do not know, the one that sets the upstream's pace among them."""


def measure(system: System, mode: str, connections: int, requests: int, *, prompt: str = PROMPT) -> dict[str, float]:
    """One load run against one system."""
    body = {"model": "fake", "messages": [{"role": "user", "content": prompt}], **MODES[mode]}
    argv = [sys.executable, "-m", "benchmarks.load", "--port", str(system.port), "--connections", str(connections)]
    argv += ["--requests", str(requests)] + (["--key", system.key] if system.key else [])
    system.sent += requests
    before = system.cpu_ns()
    done = subprocess.run(
        pinned(OTHER_CORE, argv), input=json.dumps(body), capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    if done.returncode:
        raise SystemExit(f"load on {system.name} failed: {done.stderr}")
    cpu_us = (system.cpu_ns() - before) / 1000
    got = json.loads(done.stdout)
    if got["errors"] or got["requests"] != requests:
        raise SystemExit(f"void: {system.name} {mode} {connections}: {got}")
    return {
        "requests": requests,
        "cpu_us_per_request": cpu_us / requests,
        "cpu_us_per_chunk": cpu_us / (requests * CHUNKS),
        "p50_ms": got["whole_ms"]["p50"] if mode == "json" else got["first_ms"]["p50"],
        "p99_ms": got["whole_ms"]["p99"] if mode == "json" else got["first_ms"]["p99"],
    }


def run(rounds: int, scale: float) -> dict[str, Any]:
    """Everything; the result as it is written."""
    with stage() as made, ExitStack() as stack:
        (store_url, store_name), (source_url, _), (other_url, _) = (stack.enter_context(store()) for _ in range(3))
        direct = made.start_upstream()
        ours = [made.start_tidegate(store_url), made.start_tidegate(source_url, "tidegate-from-source", compiled=False)]
        if DISTRIBUTION_PYTHON.exists() and DISTRIBUTION_PYTHON.resolve() != Path(sys.executable).resolve():
            ours.append(made.start_tidegate(other_url, "tidegate-distribution-python", DISTRIBUTION_PYTHON))
        rows = take_rows([direct, *ours, *made.start_routers()], rounds, scale)
        for system in ours:
            check_books(system)
    names = ("tidegate", "uvloop", "httptools", "msgspec")
    routers = {name: version_of(name.replace("-", "_")) for name in ("vllm-router", "sglang-router")}
    litellm = {"litellm": version_of("litellm", LITELLM_ENV)} if LITELLM_ENV.exists() else {}
    return {
        **circumstances(),
        "versions": {**{name: importlib.metadata.version(name) for name in names}, **routers, **litellm, **pythons()},
        "store": store_name,
        "rounds": rounds,
        "rows": rows,
    }


def pythons() -> dict[str, str]:
    """Whose versions: the tests' environment's, and the distribution's."""
    found = {"python": sys.executable, "distribution-python": str(DISTRIBUTION_PYTHON)}
    code = "import platform; print(platform.python_version())"
    return {
        name: subprocess.run([path, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for name, path in found.items()
        if Path(path).exists()
    }


def take_rows(
    systems: list[System], rounds: int, scale: float, plan: Sequence[tuple[str, int, int]] = PLAN
) -> list[dict[str, Any]]:
    """Interleaved rounds of `plan`'s modes, connections and requests; rows of medians."""
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for system in systems:  # warm up
        for mode in MODES:
            measure(system, mode, 4, 16)
    for number in range(rounds):
        for mode, connections, requests in plan:
            for system in systems:
                if mode == "paced" and system.name in UNPACED:
                    continue
                share = scale / 20 if system.name in SLOW else scale
                count = max(connections, int(requests * share))
                found.setdefault((system.name, mode, connections), []).append(measure(system, mode, connections, count))
        print(f"round {number + 1} of {rounds} done", flush=True)
    every = [(system, mode, connections) for system in systems for mode, connections, _ in plan]
    return [row_of(*key, found) for key in every if (key[0].name, *key[1:]) in found]


def row_of(
    system: System, mode: str, connections: int, found: dict[tuple[str, str, int], list[dict[str, float]]]
) -> dict[str, Any]:
    """Medians over the rounds; differences to going direct and ratios to vllm-router are taken within a round."""
    samples = found[system.name, mode, connections]
    direct, router = found["direct", mode, connections], found["vllm-router", mode, connections]

    def median(name: str) -> float:
        return statistics.median(sample[name] for sample in samples)

    def added(name: str) -> float:
        return round(statistics.median(a[name] - b[name] for a, b in zip(samples, direct, strict=True)), 3)

    ratios = [a["cpu_us_per_request"] / b["cpu_us_per_request"] for a, b in zip(samples, router, strict=True)]
    return {
        "system": system.name,
        "mode": mode,
        "connections": connections,
        "cpu_us_per_request": round(median("cpu_us_per_request"), 1),
        "cpu_us_per_chunk": None if mode == "json" else round(median("cpu_us_per_chunk"), 2),
        "cpu_to_vllm_router": None if system.process is None else round(statistics.median(ratios), 2),
        "added_p50_ms": added("p50_ms"),
        "added_p99_ms": added("p99_ms"),
        "rss_mb": system.rss_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests; writes nothing")
    arguments = parser.parse_args()
    result = run(arguments.rounds, 0.1 if arguments.quick else 1)
    if arguments.quick:
        print(json.dumps(result["rows"], indent=1))
        return
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    write_table()
    performance.write()
    print(f"wrote {RESULT.relative_to(ROOT)} and the tables of README and docs/performance.md")


if __name__ == "__main__":
    main()
