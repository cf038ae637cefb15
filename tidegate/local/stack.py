"""`tidegate up`: the model server, the trace receiver and the gateway on this machine, and one key to use them."""

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tidegate.config.load import Document, Loaded
from tidegate.config.resources import McpServer, Model, Replica, Resources
from tidegate.errors import ConfigError
from tidegate.keys import read_pepper
from tidegate.local.model_server import ModelServer
from tidegate.local.permissions import STATE
from tidegate.local.processes import Part, PartFailed, answers, stop_all, wait_for
from tidegate.local.steps import Steps
from tidegate.store.database import Database
from tidegate.store.keys import create_key
from tidegate.store.resources import apply_resources

_KEY_DAYS = 1.0
_SERVICES_START_S = 120
_VLLM_START_S = 600


@dataclass(frozen=True)
class Running:
    """What a client of the running stack must know; written to `up_file()`, readable by the owner only."""

    base_url: str
    management_url: str
    api_key: str
    key_id: str
    model: str
    spans_file: str
    presets: list[str]
    pids: dict[str, int]
    ready_after_s: dict[str, float]
    """From a process's start until it first answered; all start at about the same time."""

    @classmethod
    def read(cls, path: Path) -> "Running":
        """What `tidegate up` wrote to `path`.

        Raises:
            ConfigError: nothing is running.
        """
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError("nothing is running here; start it with `tidegate up`") from error

    def environ(self) -> dict[str, str]:
        """As the environment of a journey; the first two are what the official client reads."""
        return {
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": self.api_key,
            "TIDEGATE_MODEL": self.model,
            "TIDEGATE_KEY_ID": self.key_id,
            "TIDEGATE_MANAGEMENT_URL": self.management_url,
            "TIDEGATE_SPANS_FILE": self.spans_file,
            "TIDEGATE_PRESETS": ",".join(self.presets),
        }


class Stack:
    """The parts, in the order in which they start."""

    def __init__(
        self, loaded: Loaded, config_path: Path, model: str | None, model_url: str | None, steps: Steps
    ) -> None:
        self._document: Document = loaded.document
        self._config_path = config_path
        self._steps = steps
        self._root = Path.cwd()
        self._state = self._root / STATE
        self._server = ModelServer(self._root, self._state, model)
        self._model_url = model_url
        self.parts: list[Part] = []
        self._receiver: Part | None = None

    @contextmanager
    def run(self) -> Iterator[Running]:
        """Starts everything; whatever happens, nothing is left running.

        Raises:
            PartFailed: a part did not come up.
            OperatorError: the configuration or the database is wrong.
        """
        try:
            self._check_ports()
            if self._model_url is None:
                self._prepare_model_server()
            yield self._start()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second one must not leave anything behind
                signal.signal(number, signal.SIG_IGN)
            up_file().unlink(missing_ok=True)
            if self.parts:
                with self._steps.step("Stopping"):
                    stop_all([part for part in self.parts if part is not self._receiver])
                    stop_all(
                        [part for part in self.parts if part is self._receiver]
                    )  # it takes the last spans of the others

    def _prepare_model_server(self) -> None:
        server = self._server
        if not server.environment_ready:
            with self._steps.step("Installing the model server into .venv-vllm (about two minutes)") as step:
                server.install(step.tick)
        if not server.model_ready:
            with self._steps.step("Preparing the model SmolLM2-135M-Instruct (about a minute)") as step:
                server.prepare_model(step.tick)

    def _start(self) -> Running:
        spans_file = self._state / "run" / "spans.jsonl"
        spans_file.parent.mkdir(parents=True, exist_ok=True)
        spans_file.unlink(missing_ok=True)
        endpoint = self._otlp_endpoint()
        if endpoint:
            self._receiver = self._part(
                "receiver",
                [
                    sys.executable,
                    "-m",
                    "tidegate.local.receiver",
                    "--port",
                    str(urlsplit(endpoint).port),
                    "--out",
                    spans_file,
                ],
            )
        vllm = self._start_vllm(endpoint)
        with self._steps.step("Preparing the database"):
            key_id, token = asyncio.run(self._prepare_database())
        self._start_services(endpoint)
        if vllm is not None:
            with self._steps.step("Starting vLLM (about 40 s on two cores)") as step:
                wait_for({f"{self._replica().url}/health": vllm}, _VLLM_START_S, step.tick)
        settings = self._document.settings.gateway
        running = Running(
            base_url=f"http://{settings.host}:{settings.port}/v1",
            management_url=f"http://{settings.management_host}:{settings.management_port}",
            api_key=token,
            key_id=key_id,
            model=self._server.name,
            spans_file=str(spans_file),
            presets=[preset.name for preset in self._document.resources.presets],
            pids={part.name: part.pid for part in self.parts},
            ready_after_s={part.name: part.ready_after_s for part in self.parts if part.ready_after_s is not None},
        )
        with os.fdopen(os.open(up_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(running), file)
        return running

    def _start_services(self, endpoint: str | None) -> None:
        """Everything but the model server, all at once."""
        settings, config = self._document.settings, self._config_path
        waiting: dict[str, Part] = {}
        for name, module, at in (
            ("gateway", "gateway", settings.gateway),
            ("knowledge", "rag", settings.knowledge),
            ("agents", "agents", settings.agents),
        ):
            part = self._part(name, [sys.executable, "-m", module, "--config", config])
            waiting[f"http://{at.management_host}:{at.management_port}/readyz"] = part
        for server in self._document.resources.mcp_servers:
            url = urlsplit(server.url)
            if url.hostname == "127.0.0.1" and importlib.util.find_spec(f"mcp_servers.{server.name}") is not None:
                waiting[f"{server.url}/healthz"] = self._part(f"mcp-{server.name}", self._tool_server(server, endpoint))
        with self._steps.step("Starting gateway, knowledge, agents and tool servers") as step:
            wait_for(waiting, _SERVICES_START_S, step.tick)

    def _tool_server(self, server: McpServer, endpoint: str | None) -> list[str]:
        """The command line of a hosted tool server of ours."""
        settings = self._document.settings
        argv = [sys.executable, "-m", "mcp_servers", server.name, "--port", str(urlsplit(server.url).port)]
        argv += ["--public-keys", str(settings.identity.public_keys_file)]
        argv += ["--gateway-url", settings.gateway_url]
        return argv + (["--otlp-endpoint", endpoint] if endpoint else [])

    def _start_vllm(self, endpoint: str | None) -> Part | None:
        if self._model_url is not None:
            return None
        url = urlsplit(self._replica().url)
        argv = self._server.command(url.hostname or "127.0.0.1", url.port or 8101, endpoint)
        return self._part("vllm", argv, env=self._server.environ())

    def _part(self, name: str, argv: Sequence[str | Path], env: dict[str, str] | None = None) -> Part:
        advice = f"if a port is taken or memory is short, free it; otherwise read {STATE}/logs/{name}.log"
        part = Part(name, argv, self._state / "logs" / f"{name}.log", env=env or dict(os.environ), advice=advice)
        self.parts.append(part)
        return part

    def _replica(self) -> Replica:
        models = self._document.resources.models
        if not models:
            raise ConfigError(f"{self._config_path}: `tidegate up` needs a model under resources.models")
        return models[0].replicas[0]

    def _otlp_endpoint(self) -> str | None:
        for sink in self._document.settings.telemetry.sinks:
            endpoint = str(sink.options().get("endpoint", ""))
            if sink.type == "otlp" and urlsplit(endpoint).hostname in ("127.0.0.1", "localhost"):
                return endpoint
        return None

    def _check_ports(self) -> None:
        settings = self._document.settings
        ours = (settings.gateway, settings.knowledge, settings.agents)
        urls = [f"http://{at.management_host}:{at.management_port}/healthz" for at in ours]
        for url in (*urls, f"{self._replica().url}/health"):
            if answers(url) and not (self._model_url and url.startswith(self._model_url)):
                raise PartFailed(
                    f"Something already answers at {url}.\nWhat to do: stop the other `tidegate up`, or change the port."
                )

    async def _prepare_database(self) -> tuple[str, str]:
        settings, resources = self._document.settings, self._document.resources
        url = self._model_url or self._replica().url
        if self._model_url or self._server.on_gpu:
            resources = _with_model(resources, Model(name=self._server.name, replicas=[Replica(url=url)]))
        if not resources.organisations or not resources.organisations[0].projects:
            raise ConfigError(f"{self._config_path}: `tidegate up` needs a project under resources.organisations")
        owner = resources.organisations[0]
        pepper = read_pepper(settings.auth.key_pepper_file)
        database = Database(settings.store)
        try:
            await database.migrate()
            async with database.transaction() as connection:
                await apply_resources(connection, resources)
                key = await create_key(
                    connection, pepper, owner.name, owner.projects[0].name, name="tidegate up", days=_KEY_DAYS
                )
        finally:
            await database.close()
        return key.key_id, key.token


def _with_model(resources: Resources, model: Model) -> Resources:
    """`resources` with `model` in place of the first one, also behind the presets."""
    first = resources.models[0].name
    presets = [p.model_copy(update={"model": model.name}) if p.model == first else p for p in resources.presets]
    return resources.model_copy(update={"models": [model, *resources.models[1:]], "presets": presets})


def up_file() -> Path:
    """Where `tidegate up` says what runs; TIDEGATE_UP_FILE moves it."""
    return Path(os.environ.get("TIDEGATE_UP_FILE", STATE / "run" / "up.json"))
