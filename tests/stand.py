"""A test stand of real processes: a fake upstream and a gateway with its own folder, database and ports."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml

from guardrails.engine.policy import build_policy
from tidegate.config.load import load
from tidegate.config.settings import StoreSettings
from tidegate.identity import make_keys
from tidegate.keys import Pepper
from tidegate.store.database import Database
from tidegate.store.keys import create_key
from tidegate.store.resources import apply_resources
from tidegate.store.usage import recent_usage

START_TIMEOUT_S = 20.0
http = httpx.Client(
    verify=ssl.create_default_context(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
)
"""For plain requests. `httpx.get` and the like read the machine's certificates each time, which takes 45 ms."""
PEPPER = b"p" * 32
ROOT = Path(__file__).parents[1]
COMPILED = ROOT / "build" / "compiled"
"""What `make compiled` makes: all of ours, with the request path compiled."""


def packages_from(*folders: Path | str) -> dict[str, str]:
    """The environment of a Python that looks for packages in these folders first, and not where it is started."""
    return {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Any, timeout_s: float = 5.0, what: str = "condition") -> Any:
    """The first truthy value of `condition()`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)
    return value


class Process:
    """A child process that is always ended."""

    def __init__(self, argv: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                argv, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, start_new_session=True
            )

    def wait_for(self, url: str, timeout_s: float) -> None:
        """Until `url` answers 200; fails at once if the process ends."""

        def ready() -> bool:
            assert self.popen.poll() is None, self.text()
            try:
                return http.get(url).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready, timeout_s, url)

    def kill(self) -> None:
        """kill -9."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self, timeout_s: float = 15) -> int:
        """SIGTERM and wait; the exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def text(self) -> str:
        """What it printed."""
        return self.log.read_text()


class Fake:
    """The scriptable upstream in a process of its own."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.host, self.port = host, port or free_port()
        self.url = f"http://{host}:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "gateway.backends.fake", "--host", self.host, "--port", str(self.port)]
        self.process = Process(argv, self._folder / "fake.log")
        wait_until(self._listens, START_TIMEOUT_S, "fake upstream")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def truth(self) -> dict[str, Any]:
        return dict(http.get(f"{self.url}/__truth").json())

    def seen(self) -> list[dict[str, Any]]:
        """The last requests, oldest first; headers as a list of pairs, body as bytes."""
        import base64

        rows = http.get(f"{self.url}/__seen").json()
        return [
            {
                "path": row["path"],
                "headers": [tuple(item) for item in json.loads(row["headers"])],
                "body": base64.b64decode(row["body"]),
            }
            for row in rows
        ]

    def forget(self) -> None:
        http.delete(f"{self.url}/__seen")

    def script(self, name: str, *steps: dict[str, Any]) -> str:
        """Stores a script; its name goes into a request as `fake_script`."""
        http.put(f"{self.url}/__scripts/{name}", content=json.dumps(steps)).raise_for_status()
        return name

    def turn(self, model: str, *scripts: str) -> None:
        """The next requests for `model` that name no script take these; a form's model is `fake`."""
        http.put(f"{self.url}/__turns/{model}", content=json.dumps(scripts)).raise_for_status()


def sse(*events: dict[str, Any] | str) -> str:
    """Events as SSE text."""
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def chat_chunk(
    content: str | None = None, *, index: int = 0, finish: str | None = None, **delta: Any
) -> dict[str, Any]:
    """One chunk of a chat stream."""
    said = ({} if content is None else {"content": content}) | delta
    choice = {"index": index, "delta": said, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


USAGE_CHUNK = {
    "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}},
}  # fmt: skip
STREAM_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(text: str) -> str:
    """`text` as one HTTP chunk."""
    return f"{len(text.encode()):x}\r\n{text}\r\n"


def stream_steps(*texts: str, pause_ms: float = 0) -> list[dict[str, Any]]:
    """A whole stream: each text in an HTTP chunk of its own."""
    steps: list[dict[str, Any]] = [{"send": STREAM_HEAD}]
    for text in texts:
        if pause_ms:
            steps.append({"sleep_ms": pause_ms})
        steps.append({"send": chunked(text)})
    return [*steps, {"send": "0\r\n\r\n"}]


def json_steps(body: Any, status: int = 200, headers: str = "") -> list[dict[str, Any]]:
    """A JSON answer."""
    text = body if isinstance(body, str) else json.dumps(body)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(text.encode())}\r\n\r\n"
    return [{"send": head + text}]


DEFAULT_POLICY: dict[str, Any] = {"name": "default", "guardrails": [{"type": "pan"}]}


class Gateway:
    """A gateway process with its own configuration, database and journal."""

    def __init__(
        self,
        folder: Path,
        replicas: Sequence[str],
        *,
        policies: Sequence[dict[str, Any]] = (DEFAULT_POLICY,),
        projects: Sequence[dict[str, Any]] | None = None,
        models: Sequence[dict[str, Any]] | None = None,
        presets: Sequence[dict[str, Any]] = (),
        mcp_servers: Sequence[dict[str, Any]] = (),
        settings: dict[str, Any] | None = None,
        store_url: str | None = None,
        within: Sequence[str] = (),
    ) -> None:
        """`within` is a program and its arguments, which runs what follows it."""
        self.folder = folder
        self.within = within
        self.port, self.management_port = free_port(), free_port()
        self.store_url = store_url or f"sqlite+aiosqlite:///{folder}/tidegate.db"
        document = {
            "settings": {
                "gateway": {"port": self.port, "management_port": self.management_port, "shutdown_grace_s": 5},
                "store": {"url": self.store_url, "refresh_interval_s": 0.1},
                "journal": {"directory": str(folder / "journal"), "ship_interval_s": 0.1},
                "auth": {"key_pepper_file": str(folder / "pepper")},
                "identity": {
                    "signing_key_file": str(folder / "private.json"),
                    "public_keys_file": str(folder / "public.json"),
                },
            },
            "resources": {
                "models": list(models or [{"name": "m", "replicas": [{"url": url} for url in replicas]}]),
                "presets": list(presets),
                "mcp_servers": list(mcp_servers),
                "policies": list(policies),
                "organisations": [
                    {"name": "acme", "projects": list(projects or [{"name": "demo", "all_models": True}])}
                ],
            },
        }
        for section, values in (settings or {}).items():
            document["settings"].setdefault(section, {}).update(values)
        self.port = document["settings"]["gateway"]["port"]
        self.config = folder / "tidegate.yaml"
        self.config.write_text(yaml.safe_dump(document))
        (folder / "pepper").write_bytes(PEPPER)
        make_keys(folder / "private.json", folder / "public.json")
        asyncio.run(self._prepare())
        self.key = self.make_key()
        self.start()

    async def _prepare(self) -> None:
        """What `tidegate apply` does, without the second it takes to start."""
        document = load(self.config, {}).document
        for spec in document.resources.policies:
            build_policy(spec)
        database = Database(document.settings.store)
        await database.migrate()
        async with database.transaction() as connection:
            await apply_resources(connection, document.resources)
        await database.close()

    def cli(self, *arguments: str) -> str:
        """What `tidegate …` prints."""
        argv = [sys.executable, "-m", "tidegate.cli", *arguments, "--config", str(self.config)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout.strip()

    def make_key(self, project: str = "demo") -> str:
        async def make() -> str:
            database = Database(StoreSettings(url=self.store_url))
            async with database.transaction() as connection:
                key = await create_key(connection, Pepper(PEPPER), "acme", project, name="test")
            await database.close()
            return key.token

        return asyncio.run(make())

    def known_key(self, project: str) -> str:
        """A new key, once the running gateway accepts it."""
        key = self.make_key(project)
        header = {"authorization": f"Bearer {key}"}
        wait_until(lambda: http.get(f"{self.url}/v1/models", headers=header).status_code == 200, 10, "the new key")
        return key

    def start(self) -> None:
        argv = [*self.within, sys.executable, "-m", "gateway", "--config", str(self.config)]
        self.process = Process(argv, self.folder / "gateway.log")
        self.wait_ready()
        several = self.metrics().get("tidegate_workers", 0) > 0  # whose tasks are not all there yet
        self.usual_tasks = float("inf") if several else self.metrics()["tidegate_tasks"]

    def wait_ready(self) -> None:
        self.process.wait_for(f"{self.management_url}/readyz", START_TIMEOUT_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def post(
        self, body: Any = None, *, path: str = "/v1/chat/completions", key: str | None = None, **more: Any
    ) -> httpx.Response:
        """A POST of JSON; `body` may be bytes. Returns once the whole answer is there."""
        headers = {
            "authorization": f"Bearer {key or self.key}",
            "content-type": "application/json",
            **more.pop("headers", {}),
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return http.post(self.url + path, content=content, headers=headers, timeout=30, **more)

    def chat(
        self, text: str = "hi", *, path: str = "/v1/chat/completions", headers: Any = None, **fields: Any
    ) -> httpx.Response:
        """A chat request with extra fields."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
        return self.post(body, path=path, headers=headers or {})

    @contextmanager
    def open_stream(self, **fields: Any) -> Iterator[httpx.Response]:
        """A streamed chat whose answer is read as it comes; leaving hangs up."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, **fields}
        with httpx.stream(
            "POST", f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=30
        ) as answer:
            yield answer

    def metrics(self) -> dict[str, float]:
        """Every sample by its full name with labels."""
        text = http.get(f"{self.management_url}/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def usage(self) -> list[dict[str, Any]]:
        """Every usage row in the database, newest first."""

        async def read() -> list[dict[str, Any]]:
            database = Database(StoreSettings(url=self.store_url))
            async with database.transaction() as connection:
                rows = await recent_usage(connection, 100_000)
            await database.close()
            return [dict(row) for row in rows]

        return asyncio.run(read())

    def usage_of(self, request_id: str) -> dict[str, Any]:
        """The row of one request, once it has been shipped."""
        found = wait_until(
            lambda: [row for row in self.usage() if row["request_id"] == request_id], 10, f"usage row of {request_id}"
        )
        assert len(found) == 1
        return dict(found[0])

    def left(self) -> list[str]:
        """What requests have left behind in the running process, some moments after the last one: nothing, that is."""

        def found() -> list[str]:
            metrics = self.metrics()
            more = metrics["tidegate_tasks"] - self.usual_tasks
            out = [f"{more:.0f} tasks"] if more > 0 else []
            if metrics["tidegate_inflight_requests"]:
                out.append(f"{metrics['tidegate_inflight_requests']:.0f} requests in flight")
            if defects := self.process.log.read_bytes().count(b'"event":"defect"'):
                out.append(f"{defects} defects in the log")
            half_closed = half_closed_sockets(self.process.popen.pid)
            return out + ([f"{half_closed} sockets whose other end has gone"] if half_closed else [])

        deadline = time.monotonic() + 3
        while (left := found()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def log_lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The JSON log lines, of one event if named."""
        text = log_of(self.process, self.management_port)
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if event is None or line["event"] == event]


def log_of(process: Process, management_port: int) -> str:
    """The log so far. Lines wait for others: when a process has answered twice, some time apart, those before are written."""
    with suppress(httpx.TransportError):
        http.get(f"http://127.0.0.1:{management_port}/readyz")
        time.sleep(0.02)
        http.get(f"http://127.0.0.1:{management_port}/readyz")
    return process.text()


def half_closed_sockets(pid: int) -> int:
    """How many sockets of a process stay open although their other end was closed (CLOSE_WAIT)."""
    inodes = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines = [line.split() for line in Path(path).read_text().splitlines()[1:]]
        inodes |= {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "08"}
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed while we look
            found += os.readlink(link) in inodes
    return found


def events_of(text: str) -> list[Any]:
    """The data of SSE events, JSON decoded where it is JSON."""
    found: list[Any] = []
    for block in text.split("\n\n"):
        if block.startswith("data: "):
            data = block[6:]
            found.append(json.loads(data) if data.startswith("{") else data)
    return found


def said(events: list[Any], index: int = 0) -> str:
    """What a choice's content adds up to."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", [])
        if choice["index"] == index
    )
