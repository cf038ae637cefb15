"""Tool servers in processes of their own, and the official client in front of the gateway."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import httpx2 as httpx
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.stand import Process, free_port

Era = Literal["auto", "legacy"]


class ToolServer:
    """A hosted tool server, ours by name or the faulty one."""

    def __init__(
        self,
        folder: Path,
        name: str,
        public_keys: Path,
        gateway_url: str = "http://127.0.0.1:9",
        env: dict[str, str] | None = None,
    ) -> None:
        self.name, self.port = name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.marks = folder
        self._argv = [sys.executable, "-m", "mcp_servers", name, "--port", str(self.port)]
        self._argv += ["--public-keys", str(public_keys), "--gateway-url", gateway_url]
        if name == "faulty":
            self._argv = [sys.executable, "-m", "tests.faulty_tools", str(self.port), str(public_keys), str(folder)]
        self._log, self._env = folder / f"{name}.log", env
        self.start()

    def start(self) -> None:
        self.process = Process(self._argv, self._log, self._env)
        self.process.wait_for(f"{self.url}/healthz", 20)


def use(url: str, key: str, work: Callable[[Client], Awaitable[Any]], era: Era = "auto", **headers: str) -> Any:
    """What `work` gives with the official client at `url`."""

    async def run() -> Any:
        credentials = {"authorization": f"Bearer {key}", **headers}
        async with (
            httpx.AsyncClient(headers=credentials, timeout=30) as http,
            Client(streamable_http_client(url, http_client=http), mode=era) as client,
        ):
            try:
                return await work(client)
            except MCPError as error:
                return error  # raised inside, the client would wrap it in a group

    found = asyncio.run(run())
    if isinstance(found, MCPError):
        raise found
    return found


def call(url: str, key: str, tool: str, era: Era = "auto", **arguments: Any) -> Any:
    """The result of one tool call."""
    return use(url, key, lambda client: client.call_tool(tool, arguments), era)


def names(url: str, key: str, era: Era = "auto") -> list[str]:
    """The tools that are offered."""

    async def work(client: Client) -> list[str]:
        return [tool.name for tool in (await client.list_tools()).tools]

    return list(use(url, key, work, era))
