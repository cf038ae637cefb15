"""A knowledge service in a process of its own, called as the gateway calls it."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml

from tests.stand import Process, free_port, http, wait_until
from tidegate.config.load import load
from tidegate.identity import Caller, Minter, make_keys
from tidegate.store.database import Database
from tidegate.store.resources import apply_resources

START_TIMEOUT_S = 60.0
PLAIN_POLICY: dict[str, Any] = {"name": "open", "guardrails": []}
MASK_POLICY: dict[str, Any] = {"name": "mask", "guardrails": [{"type": "pan", "on_input": "mask"}]}


class Knowledge:
    """The service with its own folder, keys, database and ports."""

    module, environment = "rag", dict[str, str]()

    def __init__(self, folder: Path, *, store_url: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.port, self.management_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = folder / "knowledge"
        keys = {"signing_key_file": str(folder / "private.json"), "public_keys_file": str(folder / "public.json")}
        make_keys(Path(keys["signing_key_file"]), Path(keys["public_keys_file"]))
        knowledge = {"url": self.url, "port": self.port, "management_port": self.management_port}
        document = {
            "settings": {
                "store": {"url": store_url or f"sqlite+aiosqlite:///{folder}/tidegate.db", "refresh_interval_s": 0.1},
                "identity": keys,
                "knowledge": {**knowledge, "directory": str(self.directory), "shutdown_grace_s": 2, **settings},
            },
            "resources": {
                "policies": [{"name": "default", "guardrails": [{"type": "pan"}]}, PLAIN_POLICY, MASK_POLICY],
            },
        }
        self.config = folder / "tidegate.yaml"
        self.config.write_text(yaml.safe_dump(document))
        self.minter = Minter.read(Path(keys["signing_key_file"]))
        asyncio.run(self._prepare())
        self.start()

    async def _prepare(self) -> None:
        document = load(self.config, {}).document
        database = Database(document.settings.store)
        await database.migrate()
        async with database.transaction() as connection:
            await apply_resources(connection, document.resources)
        await database.close()

    def start(self) -> None:
        argv = [sys.executable, "-m", self.module, "--config", str(self.config)]
        self.process = Process(argv, self.folder / "knowledge.log", self.environment)
        self.process.wait_for(f"http://127.0.0.1:{self.management_port}/readyz", START_TIMEOUT_S)

    @property
    def gateway_settings(self) -> dict[str, Any]:
        """What a gateway in front of it must be told."""
        keys = {
            "signing_key_file": str(self.folder / "private.json"),
            "public_keys_file": str(self.folder / "public.json"),
        }
        return {"identity": keys, "knowledge": {"url": self.url}}

    def headers(self, audience: str = "knowledge", **who: str) -> dict[str, str]:
        """As the gateway sends them for a caller of project `demo`."""
        names = {"organisation": "acme", "project": "demo", "key_id": "k", "policy": "default", "request_id": "r"}
        return {"authorization": f"Bearer {self.minter.mint(Caller(**names | who), audience)}"}

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request on behalf of a caller; `who` names another."""
        headers = {**self.headers(**more.pop("who", {})), **more.pop("headers", {})}
        return http.request(method, self.url + path, headers=headers, timeout=60, **more)

    def upload(self, name: str, data: bytes, **who: str) -> httpx.Response:
        """`POST /v1/files`."""
        return self.call("POST", "/v1/files", files={"file": (name, data)}, data={"purpose": "assistants"}, who=who)

    def file_id(self, name: str, data: bytes, **who: str) -> str:
        answer = self.upload(name, data, **who)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def store(self, name: str, *file_ids: str, wait: bool = True, **who: str) -> str:
        """A store with files, once they can be found."""
        body = {"name": name, "file_ids": list(file_ids)}
        answer = self.call("POST", "/v1/vector_stores", json=body, who=who)
        assert answer.status_code == 200, answer.text
        store_id = str(answer.json()["id"])
        if wait:
            self.wait_done(store_id, **who)
        return store_id

    def wait_done(self, store_id: str, timeout_s: float = 60, **who: str) -> dict[str, Any]:
        """The store, once no file is in progress."""

        def done() -> dict[str, Any] | None:
            shown = self.call("GET", f"/v1/vector_stores/{store_id}", who=who).json()
            return shown if shown["status"] == "completed" else None

        return dict(wait_until(done, timeout_s, f"store {store_id}"))

    def search(self, store: str, query: str, limit: int = 5, **who: str) -> list[dict[str, Any]]:
        """What the gateway would get."""
        body = {"vector_stores": [store], "query": query, "max_results": limit}
        answer = self.call("POST", "/internal/search", json=body, who=who)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    def metrics(self) -> dict[str, float]:
        text = http.get(f"http://127.0.0.1:{self.management_port}/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


def timed(action: Any) -> tuple[Any, float]:
    """What `action()` returns, and how long it took, s."""
    began = time.perf_counter()
    return action(), time.perf_counter() - began
