"""The agents service in a process of its own behind a gateway, with a scripted model and real tool servers."""

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from tests.knowledge_stand import Knowledge
from tests.stand import USAGE_CHUNK, Fake, Gateway, Process, chat_chunk, free_port, sse, stream_steps
from tests.tool_stand import ToolServer
from tidegate.config.settings import StoreSettings
from tidegate.store.database import Database
from tidegate.store.documents import Owner
from tidegate.store.responses import list_events

PROJECTS = [
    {"name": "demo", "all_models": True, "all_mcp_servers": True},
    {"name": "other", "all_models": True},
    {"name": "quiet", "all_models": True, "all_mcp_servers": True, "store_responses": False},
    {"name": "brief", "all_models": True, "keep_responses_days": 0.00002},
]


class Bench:
    """Gateway, agents, a fake model and tool servers."""

    def __init__(self, folder: Path, fake: Fake, knowledge: Knowledge, store_url: str | None = None) -> None:
        self.folder, self.fake, self.knowledge = folder, fake, knowledge
        port, self.agents_port, management = free_port(), free_port(), free_port()
        url = f"http://127.0.0.1:{port}"
        public = knowledge.folder / "public.json"
        (folder / "gateway").mkdir()
        self.servers = {name: ToolServer(folder, name, public, url) for name in ("calendar", "faulty")}
        agents = {
            "url": f"http://127.0.0.1:{self.agents_port}",
            "port": self.agents_port,
            "management_port": management,
        }
        self.management_url = f"http://127.0.0.1:{management}"
        self.gateway = Gateway(
            folder / "gateway",
            [fake.url],
            projects=PROJECTS,
            store_url=store_url,
            mcp_servers=[{"name": name, "url": server.url} for name, server in self.servers.items()],
            settings={
                **knowledge.gateway_settings,
                "gateway": {"port": port},
                "agents": {**agents, "max_turns": 6, "max_runs": 8, "shutdown_grace_s": 1},
                "mcp": {"max_result_bytes": 100_000, "call_timeout_s": 2},
            },
        )
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "agents", "--config", str(self.gateway.config)]
        self.process = Process(argv, self.folder / "agents.log")
        self.process.wait_for(f"{self.management_url}/readyz", 40)

    def close(self) -> None:
        self.process.stop()
        self.gateway.process.stop()
        for server in self.servers.values():
            server.process.stop()

    def script(self, *turns: list[dict[str, Any]], pause_ms: float = 0) -> None:
        """Makes the model say these turns one after the other, whatever it is asked; forgets what it was asked before."""
        names = []
        for number, events in enumerate(turns):
            texts = [sse(event) for event in [*events, USAGE_CHUNK]] + [sse("[DONE]")]
            names.append(
                self.fake.script(f"turn-{time.monotonic_ns()}-{number}", *stream_steps(*texts, pause_ms=pause_ms))
            )
        self.fake.turn("m", *names)
        self.fake.forget()

    def asked(self) -> list[dict[str, Any]]:
        """What the model was asked since, request by request."""
        return [json.loads(row["body"]) for row in self.fake.seen()]

    def journal(self, response_id: str, project: str = "demo") -> list[tuple[str, dict[str, Any]]]:
        """The steps of a run as the database has them."""

        async def read() -> list[tuple[str, dict[str, Any]]]:
            database = Database(StoreSettings(url=self.gateway.store_url))
            async with database.transaction() as connection:
                rows = await list_events(connection, Owner("acme", project), response_id)
            await database.close()
            return [(row["kind"], json.loads(row["data"])) for row in rows]

        return asyncio.run(read())


def says(text: str) -> list[dict[str, Any]]:
    """A turn in which the model says something."""
    return [
        chat_chunk("", role="assistant"),
        *(chat_chunk(word) for word in text.split(" ")),
        chat_chunk(finish="stop"),
    ]


def calls(*wanted: tuple[str, dict[str, Any]], finish: str = "tool_calls") -> list[dict[str, Any]]:
    """A turn in which the model calls tools, the arguments in two pieces."""
    events = [chat_chunk("", role="assistant")]
    for index, (name, arguments) in enumerate(wanted):
        text, call_id = json.dumps(arguments), f"call_{secrets.token_hex(4)}"  # too short for a card
        head = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        events.append(chat_chunk(tool_calls=[head]))
        for piece in (text[:3], text[3:]):
            events.append(chat_chunk(tool_calls=[{"index": index, "function": {"arguments": piece}}]))
    return [*events, chat_chunk(finish=finish)]
