"""What benchmarks set up: the fake upstream, the gateway with its production settings, and the routers beside it.

The system under test is pinned to one core; upstream, load and everything else share the other.
"""

import asyncio
import contextlib
import datetime
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.stand import COMPILED, Process, free_port, packages_from, wait_until
from tests.tidegate.store.databases import postgres_database
from tidegate.config.load import load
from tidegate.identity import make_keys
from tidegate.keys import Pepper
from tidegate.store.database import Database
from tidegate.store.keys import create_key
from tidegate.store.resources import apply_resources
from tidegate.store.usage import usage_by_key

ROOT = Path(__file__).parents[1]
ROUTER_ENV = ROOT / ".venv-bench"
LITELLM_ENV = ROOT / ".venv-litellm"
SYSTEM_CORE, OTHER_CORE = "0", "1"
PEPPER = b"benchmark-pepper-of-no-value-at-all"
DISTRIBUTION_PYTHON = Path("/usr/bin/python3.11")
"""As a distribution builds it, which makes a difference; containers have such a one, too."""


class System:
    """One system under test: where it listens, whose CPU counts."""

    def __init__(
        self,
        name: str,
        port: int,
        process: Process | None,
        *,
        key: str = "",
        management_port: int = 0,
        config: Path | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.key = key
        self.management_port = management_port
        self.config = config
        """Where usage can be looked up."""
        self.sent = 0
        """Requests so far."""

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


@dataclass
class Stage:
    """Everything that runs; `close` ends it."""

    folder: Path
    upstream_port: int = field(default_factory=free_port)
    otlp_port: int = field(default_factory=free_port)
    processes: list[Process] = field(default_factory=list)

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def start_upstream(self) -> System:
        fake = [sys.executable, "-m", "gateway.backends.fake", "--port", str(self.upstream_port), "--forget"]
        self.run(OTHER_CORE, fake, "fake")
        spans = str(self.folder / "spans")
        receiver = [sys.executable, "-m", "tidegate.local.receiver", "--port", str(self.otlp_port), "--out", spans]
        self.run(OTHER_CORE, receiver, "receiver")
        wait_until(lambda: get(f"{self.upstream}/health") is not None, 20, "fake upstream")
        return System("direct", self.upstream_port, None)

    def start_tidegate(
        self,
        store_url: str,
        name: str = "tidegate",
        python: Path | None = None,
        *,
        compiled: bool = True,
        limits: dict[str, Any] | None = None,
    ) -> System:
        """`python -m gateway` with the production settings, by this interpreter or another one, compiled or from source.

        `limits` are settings of its limits.
        """
        folder = self.folder / name
        folder.mkdir()
        port, management_port = free_port(), free_port()
        document = configuration(folder, self.upstream, self.otlp_port, store_url)
        document["settings"]["gateway"] |= {"port": port, "management_port": management_port}
        document["settings"]["limits"] = limits or {}
        make_keys(folder / "private.json", folder / "public.json")
        owner = document["resources"]["organisations"][0]
        (folder / "pepper").write_bytes(PEPPER)
        config = folder / "tidegate.yaml"
        config.write_text(yaml.safe_dump(document))
        key = asyncio.run(prepare(config, owner["name"], owner["projects"][0]["name"]))
        argv = [sys.executable if python is None else str(python), "-m", "gateway", "--config", str(config)]
        packages = [path for path in sys.path if python is not None and path.endswith("site-packages")]
        folders = [compiled_packages(), ROOT, *packages] if compiled else [ROOT, *packages]
        process = self.run(SYSTEM_CORE, argv, name, packages_from(*folders))
        wait_until(lambda: get(f"http://127.0.0.1:{management_port}/readyz") is not None, 30, name)
        return System(name, port, process, key=key, management_port=management_port, config=config)

    def start_reference(self) -> System:
        """The relay that does nothing but relay."""
        port = free_port()
        argv = [sys.executable, "-m", "benchmarks.reference", "--port", str(port)]
        process = self.run(SYSTEM_CORE, [*argv, "--upstream", f"127.0.0.1:{self.upstream_port}"], "reference")
        wait_until(lambda: _listens(port), 20, "the reference relay")
        return System("reference", port, process)

    def start_routers(self) -> list[System]:
        """vllm-router and sglang-router with policy cache_aware; LiteLLM, if it is there."""
        argv = [
            str(routers_env() / "python"),
            "-m",
            "sglang_router.launch_router",
            *self._routing,
            "--log-level",
            "error",
        ]
        systems = [self.start_vllm_router(), self._router("sglang-router", argv)]
        return systems + ([self._litellm()] if LITELLM_ENV.exists() else [])

    def start_vllm_router(self) -> System:
        argv = [str(routers_env() / "vllm-router"), *self._routing, "--log-level", "warning"]
        return self._router("vllm-router", argv)

    @property
    def _routing(self) -> list[str]:
        return ["--worker-urls", self.upstream, "--policy", "cache_aware", "--host", "127.0.0.1"]

    def _router(self, name: str, argv: Sequence[str]) -> System:
        port = free_port()
        process = self.run(SYSTEM_CORE, [*argv, "--port", str(port), "--prometheus-port", str(free_port())], name)
        wait_until(lambda: get(f"http://127.0.0.1:{port}/health") is not None, 60, name)
        return System(name, port, process)

    def _litellm(self) -> System:
        port, config = free_port(), self.folder / "litellm.yaml"
        model = {"model": "openai/fake", "api_base": f"{self.upstream}/v1", "api_key": "none"}
        config.write_text(yaml.safe_dump({"model_list": [{"model_name": "fake", "litellm_params": model}]}))
        argv = [
            str(LITELLM_ENV / "bin" / "litellm"),
            "--config",
            str(config),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
        ]
        process = self.run(SYSTEM_CORE, argv, "litellm")
        wait_until(lambda: get(f"http://127.0.0.1:{port}/health/liveliness") is not None, 120, "LiteLLM")
        return System("litellm", port, process)

    def run(self, core: str, argv: Sequence[str], name: str, env: dict[str, str] | None = None) -> Process:
        self.processes.append(Process(pinned(core, argv), self.folder / f"{name}.log", env))
        return self.processes[-1]

    def close(self) -> None:
        for process in self.processes:
            process.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def compiled_packages() -> Path:
    """What an image would hold of ours, made anew where the sources are newer."""
    subprocess.run(["make", "--silent", "compiled"], cwd=ROOT, check=True)
    return COMPILED


def routers_env() -> Path:
    """The programs of the routers' environment, which is made if it is not there."""
    programs = ROUTER_ENV / "bin"
    if not (programs / "py-spy").exists():
        print("installing the routers into .venv-bench …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ROUTER_ENV)], check=True)
        lock = ROOT / "requirements" / "bench.lock"
        subprocess.run([programs / "python", "-m", "pip", "install", "-q", "--require-hashes", "-r", lock], check=True)
    return programs


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """An empty one; everything on it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-", ignore_cleanup_errors=True) as folder:
        made = Stage(Path(folder))
        try:
            yield made
        finally:
            made.close()


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


def get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def check_books(system: System) -> None:
    """N requests, N usage rows, N in the metrics; anything else voids the run."""
    assert system.config is not None
    config, expected = system.config, system.sent

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
    print(
        f"books of {system.name}: {expected} requests, {written} usage rows, {counted:.0f} in the metrics", flush=True
    )
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


def circumstances() -> dict[str, str]:
    """Where and when, as every result begins."""
    machine = f"{_cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    return {"machine": machine, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def version_of(package: str, environment: Path = ROUTER_ENV) -> str:
    """Of a package in an environment of its own."""
    found = list(environment.glob(f"lib/python3*/site-packages/{package}-*.dist-info"))
    return found[0].name.removeprefix(f"{package}-").removesuffix(".dist-info") if found else "absent"
