"""What the gateway costs: CPU and latency, side by side with going direct and with vllm-router (policy cache_aware).

All systems face the same fake upstream with the same body; the system under test is pinned to core 0, upstream and load
generator to core 1. Rounds are interleaved, the table holds medians. Tidegate runs `tidegate serve` with the settings of
`deploy/tidegate.production.yaml` (keys, guardrail PAN both ways, journal, database, metrics, log lines, traces sampled at
1 %); only addresses and the project's limits are replaced. Afterwards N requests must have given N usage rows and N in the
metrics, else the run is void.

Usage: `make bench` or `python -m benchmarks.overhead [--rounds 5] [--quick]`. Writes benchmarks/results/overhead.json.
"""

import argparse
import asyncio
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.readme import write_table
from tests.stand import Process, free_port, wait_until
from tests.tidegate.store.databases import postgres_database
from tidegate.config.load import load
from tidegate.identity import make_keys
from tidegate.store.database import Database
from tidegate.store.keys import Pepper, create_key
from tidegate.store.resources import apply_resources
from tidegate.store.usage import usage_by_key

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "overhead.json"
ROUTER_ENV = ROOT / ".venv-bench"
SYSTEM_CORE, OTHER_CORE = "0", "1"
CHUNKS = 64
PEPPER = b"benchmark-pepper-of-no-value-at-all"
PROMPT = "Summarise the settlement procedure for card payments in two sentences. " * 12

MODES: dict[str, dict[str, Any]] = {
    "json": {"max_tokens": CHUNKS},
    "burst": {"max_tokens": CHUNKS, "stream": True},
    "paced": {"max_tokens": CHUNKS, "stream": True, "fake_pace_ms": 20},
}
PLAN = [("json", 1, 1500), ("json", 16, 4000), ("json", 64, 4000)]
PLAN += [
    ("burst", 1, 800),
    ("burst", 16, 2000),
    ("burst", 64, 2000),
    ("paced", 1, 3),
    ("paced", 16, 64),
    ("paced", 64, 192),
]


class System:
    """One system under test: where it listens, whose CPU counts."""

    def __init__(
        self, name: str, port: int, process: Process | None, *, key: str = "", management_port: int = 0
    ) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.key = key
        self.management_port = management_port

    def cpu_ns(self) -> int:
        """CPU time of all its threads so far."""
        if self.process is None:
            return 0
        total = 0
        for task in Path(f"/proc/{self.process.popen.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
        return total

    def rss_mb(self) -> float | None:
        """Resident memory."""
        if self.process is None:
            return None
        status = Path(f"/proc/{self.process.popen.pid}/status").read_text()
        return round(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 1)


def pinned(core: str, argv: Sequence[str]) -> list[str]:
    return ["taskset", "-c", core, *argv]


def measure(system: System, mode: str, connections: int, requests: int) -> dict[str, float]:
    """One load run against one system."""
    body = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}], **MODES[mode]}
    argv = [sys.executable, "-m", "benchmarks.load", "--port", str(system.port), "--connections", str(connections)]
    argv += ["--requests", str(requests), "--body", json.dumps(body)] + (["--key", system.key] if system.key else [])
    before = system.cpu_ns()
    done = subprocess.run(pinned(OTHER_CORE, argv), capture_output=True, text=True, cwd=ROOT, timeout=300)
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


def start_tidegate(folder: Path, upstream: str, otlp_port: int, store_url: str, processes: list[Process]) -> System:
    """`tidegate serve` with the production settings."""
    port, management_port = free_port(), free_port()
    document = configuration(folder, upstream, otlp_port, store_url)
    document["settings"]["gateway"] |= {"port": port, "management_port": management_port}
    make_keys(folder / "private.json", folder / "public.json")
    owner = document["resources"]["organisations"][0]
    (folder / "pepper").write_bytes(PEPPER)
    config = folder / "tidegate.yaml"
    config.write_text(yaml.safe_dump(document))
    key = asyncio.run(prepare(config, owner["name"], owner["projects"][0]["name"]))
    argv = [sys.executable, "-m", "tidegate.cli", "serve", "--config", str(config)]
    process = Process(pinned(SYSTEM_CORE, argv), folder / "tidegate.log")
    processes.append(process)
    wait_until(lambda: get(f"http://127.0.0.1:{management_port}/readyz") is not None, 30, "tidegate")
    return System("tidegate", port, process, key=key, management_port=management_port)


def configuration(folder: Path, upstream: str, otlp_port: int, store_url: str) -> dict[str, Any]:
    """The production configuration; only addresses and limits are ours."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "tidegate.production.yaml").read_text())
    settings, resources = document["settings"], document["resources"]
    settings["gateway"] |= {"host": "127.0.0.1", "management_host": "127.0.0.1", "drain_delay_s": 0}
    settings["store"] = {"url": store_url}
    settings["journal"] = {"directory": str(folder / "journal")}
    settings["auth"] = {"key_pepper_file": str(folder / "pepper")}
    settings["identity"] = {
        "signing_key_file": str(folder / "private.json"),
        "public_keys_file": str(folder / "public.json"),
    }
    settings["telemetry"]["sinks"] = [{"type": "otlp", "endpoint": f"http://127.0.0.1:{otlp_port}/v1/traces"}]
    resources |= {"models": [{"name": "fake", "replicas": [{"url": upstream}]}], "presets": [], "mcp_servers": []}
    resources["organisations"][0]["projects"][0] |= {
        "models": ["fake"],
        "mcp_servers": [],
        "limits": {"requests_per_minute": 10_000_000, "concurrent_requests": 10_000},
    }
    return document


async def prepare(config: Path, organisation: str, project: str) -> str:
    document = load(config, {}).document
    database = Database(document.settings.store)
    await database.migrate()
    async with database.transaction() as connection:
        await apply_resources(connection, document.resources)
        key = await create_key(connection, Pepper(PEPPER), organisation, project, name="benchmark")
    await database.close()
    return key.token


def start_router(folder: Path, upstream: str, processes: list[Process]) -> System:
    """vllm-router, from an environment of its own."""
    program = ROUTER_ENV / "bin" / "vllm-router"
    if not program.exists():
        print("installing vllm-router into .venv-bench …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ROUTER_ENV)], check=True)
        lock = ROOT / "requirements" / "bench.lock"
        pip = [str(ROUTER_ENV / "bin" / "python"), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(lock)]
        subprocess.run(pip, check=True)
    port = free_port()
    argv = [
        str(program),
        "--worker-urls",
        upstream,
        "--policy",
        "cache_aware",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    argv += ["--prometheus-port", str(free_port()), "--log-level", "warning"]
    process = Process(pinned(SYSTEM_CORE, argv), folder / "router.log")
    processes.append(process)
    wait_until(lambda: get(f"http://127.0.0.1:{port}/health") is not None, 60, "vllm-router")
    return System("vllm-router-cache-aware", port, process)


def get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def check_books(system: System, expected: int, config: Path) -> None:
    """N requests, N usage rows, N in the metrics; anything else voids the run."""

    async def rows() -> int:
        database = Database(load(config, {}).document.settings.store)
        async with database.transaction() as connection:
            found = await usage_by_key(connection)
        await database.close()
        return sum(int(row["requests"]) for row in found if row["outcome"] == "ok")

    deadline = time.monotonic() + 30
    while (written := asyncio.run(rows())) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    text = (get(f"http://127.0.0.1:{system.management_port}/metrics") or b"").decode()
    lines = [line for line in text.splitlines() if line.startswith("tidegate_requests_total")]
    counted = sum(float(line.rpartition(" ")[2]) for line in lines)
    print(f"books: {expected} requests, {written} usage rows, {counted:.0f} in the metrics", flush=True)
    if written != expected or counted != expected:
        raise SystemExit("void: requests, usage rows and metrics differ")


@contextlib.contextmanager
def store() -> Iterator[tuple[str, str]]:
    """PostgreSQL as in production where one answers, else SQLite; the name is noted in the result."""
    stack = contextlib.AsyncExitStack()
    with asyncio.Runner() as runner:
        try:
            url = runner.run(stack.enter_async_context(postgres_database()))
        except OSError:
            with tempfile.TemporaryDirectory() as folder:
                yield f"sqlite+aiosqlite:///{folder}/bench.db", "sqlite"
            return
        try:
            yield url, "postgresql"
        finally:
            runner.run(stack.aclose())


def run(rounds: int, scale: float) -> dict[str, Any]:
    """Everything; the result as it is written."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    processes: list[Process] = []
    try:
        with store() as (store_url, store_name):
            upstream_port, otlp_port = free_port(), free_port()
            upstream = f"http://127.0.0.1:{upstream_port}"
            fake = [sys.executable, "-m", "gateway.backends.fake", "--port", str(upstream_port), "--forget"]
            processes.append(Process(pinned(OTHER_CORE, fake), folder / "fake.log"))
            receiver = [
                sys.executable,
                "-m",
                "tidegate.local.receiver",
                "--port",
                str(otlp_port),
                "--out",
                str(folder / "spans"),
            ]
            processes.append(Process(pinned(OTHER_CORE, receiver), folder / "receiver.log"))
            wait_until(lambda: get(f"{upstream}/health") is not None, 20, "fake upstream")
            tidegate = start_tidegate(folder, upstream, otlp_port, store_url, processes)
            router = start_router(folder, upstream, processes)
            systems = [System("direct", upstream_port, None), tidegate, router]
            rows, sent = take_rows(systems, rounds, scale)
            check_books(tidegate, sent, folder / "tidegate.yaml")
        versions = {
            name: importlib.metadata.version(name) for name in ("tidegate", "uvicorn", "uvloop", "httptools", "msgspec")
        }
        return {
            "machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": {**versions, "vllm-router": router_version(), "python": platform.python_version()},
            "store": store_name,
            "rounds": rounds,
            "rows": rows,
        }
    finally:
        for process in processes:
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)


def take_rows(systems: list[System], rounds: int, scale: float) -> tuple[list[dict[str, Any]], int]:
    """Interleaved rounds; rows of medians, and how many requests tidegate was sent."""
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    sent = 0
    for system in systems:  # warm up
        for mode in MODES:
            measure(system, mode, 4, 16)
            sent += 16 if system.name == "tidegate" else 0
    for number in range(rounds):
        for mode, connections, requests in PLAN:
            count = max(connections, int(requests * scale))
            for system in systems:
                found.setdefault((system.name, mode, connections), []).append(measure(system, mode, connections, count))
                sent += count if system.name == "tidegate" else 0
        print(f"round {number + 1} of {rounds} done", flush=True)
    rows = []
    for (name, mode, connections), samples in found.items():
        pairs = list(zip(samples, found["direct", mode, connections], strict=True))
        system = next(item for item in systems if item.name == name)
        cpu_us_per_chunk = statistics.median(sample["cpu_us_per_chunk"] for sample in samples)
        rows.append(
            {
                "system": name,
                "mode": mode,
                "connections": connections,
                "cpu_us_per_request": round(statistics.median(sample["cpu_us_per_request"] for sample in samples), 1),
                "cpu_us_per_chunk": None if mode == "json" else round(cpu_us_per_chunk, 2),
                "added_p50_ms": round(
                    statistics.median(ours["p50_ms"] - direct["p50_ms"] for ours, direct in pairs), 3
                ),
                "added_p99_ms": round(
                    statistics.median(ours["p99_ms"] - direct["p99_ms"] for ours, direct in pairs), 3
                ),
                "rss_mb": system.rss_mb(),
            }
        )
    return rows, sent


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def router_version() -> str:
    found = list(ROUTER_ENV.glob("lib/python3*/site-packages/vllm_router-*.dist-info"))
    return found[0].name.removeprefix("vllm_router-").removesuffix(".dist-info") if found else "absent"


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
    print(f"wrote {RESULT.relative_to(ROOT)} and the README's table")


if __name__ == "__main__":
    main()
