"""What `benchmarks.neighbour` measures: a whole deployment on two cores, with the product's own processes.

Gateway, knowledge, agents and a tool server may use both cores; the model server and both load generators share the second
one. The gateway starts anew for every load, so that its memory belongs to that load; so does knowledge for loads against it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.hostile_loads import (
    DESCRIPTORS,
    EMBEDDER,
    LOADS,
    MODEL,
    STALLED_MODEL,
    Load,
    Target,
    chat,
    request,
    response,
    scripts,
    search,
    tool_call,
    upload,
)
from benchmarks.stage import store
from tests.knowledge_stand import Knowledge
from tests.stand import Fake, Gateway, Process, free_port
from tests.tool_stand import ToolServer

DOCUMENTS = 20
SAMPLE_EVERY_S = 0.25
ATTACKER_LIMITS = {"requests_per_minute": 60_000, "concurrent_requests": 256}
PROJECTS: list[dict[str, Any]] = [
    {"name": "neighbour"},
    {"name": "attacker", "limits": ATTACKER_LIMITS},
    {"name": "limited", "limits": {"requests_per_minute": 1}},
    {"name": "narrow", "limits": {"concurrent_requests": 2}},
]
QUERY = "Who decides about a refund at night?"
KNOWLEDGE_SURFACES = {"search", "upload", "embedding"}
"""Surfaces whose memory is the knowledge service's."""
PACES = {"chat": 40.0, "search": 8.0, "stream": 20.0, "upload": 2.0, "embedding": 8.0, "response": 2.0, "tool": 10.0}
"""The neighbour's requests a second."""


class Deployment:
    """Every process, and the keys of both projects."""

    def __init__(self, folder: Path, cores: list[int], gateway_url: str, knowledge_url: str) -> None:
        self._folder, self._cores = folder, cores
        self.other_processes: list[Process] = []
        port, agents_port, agents_management = free_port(), free_port(), free_port()
        for name in ("fake", "knowledge", "gateway"):
            (folder / name).mkdir()
        self.fake = self._start_fake()
        self.knowledge = Knowledge(folder / "knowledge", store_url=knowledge_url)
        self.stores = {name: self._handbook(name) for name in ("neighbour", "attacker")}
        url = f"http://127.0.0.1:{port}"
        calendar = ToolServer(folder, "calendar", self.knowledge.folder / "public.json", url)
        rights = {"all_models": True, "all_mcp_servers": True}
        agents = {"url": f"http://127.0.0.1:{agents_port}", "port": agents_port, "management_port": agents_management}
        self.gateway = Gateway(
            folder / "gateway",
            [self.fake.url],
            models=[
                {"name": MODEL, "replicas": [{"url": self.fake.url}]},
                {"name": STALLED_MODEL, "replicas": [{"url": self.fake.url}]},
                {"name": EMBEDDER, "replicas": [{"url": self.knowledge.url, "audience": "knowledge"}]},
            ],
            projects=[project | rights for project in PROJECTS] + [{"name": "demo", **rights}],
            mcp_servers=[{"name": "calendar", "url": calendar.url}],
            store_url=gateway_url,
            settings={**self.knowledge.gateway_settings, "gateway": {"port": port}, "agents": agents},
            within=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"),
        )
        self.keys = {project["name"]: self.gateway.known_key(project["name"]) for project in PROJECTS}
        self.keys["nobody"] = "tg_" + "0" * 40
        argv = [sys.executable, "-m", "agents", "--config", str(self.gateway.config)]
        self.agents = Process(argv, folder / "agents.log")
        self.agents.wait_for(f"http://127.0.0.1:{agents_management}/readyz", 60)
        self.other_processes = [calendar.process, self.agents]

    def _start_fake(self) -> Fake:
        """The model server, on the core of the load generators."""
        with self.on_cores(self._cores[1:]):
            fake = Fake(self._folder / "fake")
        for name, steps in scripts().items():
            fake.script(name, *steps)
        return fake

    def _handbook(self, project: str) -> str:
        who = {"project": project, "organisation": "acme"}
        documents = [
            f"# Refunds {n}\n\nAt night the duty officer decides about refunds above {n} euros."
            for n in range(DOCUMENTS)
        ]
        files = [self.knowledge.file_id(f"{n}.md", text.encode(), **who) for n, text in enumerate(documents)]
        store_id = self.knowledge.store("handbook", *files, wait=False, project=project, organisation="acme")
        self.knowledge.wait_done(store_id, project=project, organisation="acme")
        return store_id

    @contextlib.contextmanager
    def on_cores(self, cores: list[int]) -> Iterator[None]:
        """Processes that start inside run on these cores."""
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._cores)

    def renew(self, *, knowledge: bool) -> None:
        """Starts the gateway anew, and where asked for the knowledge service."""
        stop_quickly(self.gateway.process)
        if knowledge:
            stop_quickly(self.knowledge.process)
            self.knowledge.start()
        self.fake.turn(STALLED_MODEL, *["stall"] * 10_000)
        self.gateway.start()

    def target(self, project: str) -> Target:
        """Where requests of a project go."""
        return Target(self.gateway.port, self.keys[project], self.stores.get(project, "vs_none"))

    def processes(self, surface: str) -> Process:
        """The process whose tree's memory counts for a surface."""
        return self.knowledge.process if surface in KNOWLEDGE_SURFACES else self.gateway.process

    def close(self) -> None:
        """Ends everything."""
        for process in (self.gateway.process, self.knowledge.process, self.fake.process, *self.other_processes):
            stop_quickly(process)


@contextlib.contextmanager
def deployment(folder: Path) -> Iterator[tuple[Deployment, str]]:
    """A running one, and the name of its database."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    with contextlib.ExitStack() as stack:
        (gateway_url, name), (knowledge_url, _) = (stack.enter_context(store()) for _ in range(2))
        made = Deployment(folder, cores, gateway_url, knowledge_url)
        stack.callback(made.close)
        yield made, name


def stop_quickly(process: Process) -> None:
    """Ends a service without the time its requests would have."""
    if process.popen.poll() is None:
        process.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(Exception):
            process.popen.wait(1)
    if process.popen.poll() is None:
        process.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(Exception):
            process.popen.wait(5)
    if process.popen.poll() is None:
        process.kill()


def calls_of(target: Target, surfaces: list[str]) -> list[tuple[str, bytes, str, bool]]:
    """The neighbour's requests: surface, bytes, what the response must hold, whether its first byte counts."""
    embedding = f'{{"model":"{EMBEDDER}","input":"high water"}}'.encode()
    known: dict[str, tuple[Callable[[], bytes], str, bool]] = {
        "chat": (lambda: chat(target, "What is a settlement?", max_tokens=16), "tok", False),
        "stream": (lambda: chat(target, "What is a settlement?", max_tokens=16, stream=True), "tok", True),
        "search": (lambda: search(target, QUERY), "duty officer", False),
        "upload": (lambda: upload(target, "note.md", b"# Note\n\nThe lock opens at high water."), "file-", False),
        "embedding": (lambda: request(target, "/v1/embeddings", embedding), "embedding", False),
        "response": (lambda: response(target), "resp_", False),
        "tool": (lambda: tool_call(target), "is_business_day", False),
    }
    return [(name, known[name][0](), known[name][1], known[name][2]) for name in surfaces]


def surfaces_of(load: Load) -> list[str]:
    """What is measured beside a load."""
    return ["chat", "search"] + ([load.surface] if load.surface else [])


def attacks_knowledge(name: str) -> bool:
    """Whether a load ends in the knowledge service."""
    return LOADS[name].surface in KNOWLEDGE_SURFACES or name.startswith("searches")


class MemorySampler:
    """The largest memory of a process and its children, MB, sampled until `stop`.

    It is the proportional set size: pages that several processes share are counted once.
    """

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The peak."""
        self._stopped.set()
        self._thread.join()
        return self.peak_mb

    def _run(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, sum(map(pss_mb, tree_of(self._pid))))
            if self._stopped.wait(SAMPLE_EVERY_S):
                return


def tree_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            parent = int(text.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def pss_mb(pid: int) -> float:
    """One process's proportional set size; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)
