"""Names that a caller makes up are written down nowhere: not in logs, journal, usage rows, metrics or traces."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.stand import Fake, Gateway, Process, free_port, http, wait_until
from tests.tool_stand import ToolServer, call, names
from tidegate.identity import make_keys

NAME = "4111111111111111"
"""It looks like a card number, and nothing but a made-up name may look so here: no guardrail helps."""


class Stand:
    """A gateway whose spans are kept, and a tool server."""

    def __init__(self, folder: Path, fake: Fake) -> None:
        self.folder = folder
        keys = {"signing_key_file": str(folder / "private.json"), "public_keys_file": str(folder / "public.json")}
        make_keys(folder / "private.json", folder / "public.json")
        port, self.spans = free_port(), folder / "spans.jsonl"
        argv = [sys.executable, "-m", "tidegate.local.receiver", "--port", str(port), "--out", str(self.spans)]
        self.receiver = Process(argv, folder / "receiver.log")
        self.receiver.wait_for(f"http://127.0.0.1:{port}", 20)
        self.tools = ToolServer(folder, "faulty", folder / "public.json")
        (folder / "gateway").mkdir()
        self.gateway = Gateway(
            folder / "gateway",
            [fake.url],
            projects=[{"name": "demo", "all_models": True, "all_mcp_servers": True}],
            policies=[{"name": "default", "guardrails": []}],
            mcp_servers=[{"name": "faulty", "url": self.tools.url}],
            settings={
                "identity": keys,
                "knowledge": {"url": fake.url},
                "agents": {"url": fake.url},
                "telemetry": {"sinks": [{"type": "otlp", "endpoint": f"http://127.0.0.1:{port}/v1/traces"}]},
            },
        )

    def left(self) -> dict[str, bytes]:
        """Everything that has been written down, by file, and the metrics."""
        files = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        return {**files, "metrics": http.get(f"{self.gateway.management_url}/metrics").content}

    def rpc(self, method: str, params: dict[str, Any], path: str = "/mcp") -> None:
        headers = {**self.gateway.headers, "accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        assert http.post(self.gateway.url + path, headers=headers, json=body, timeout=20).status_code < 500


@pytest.fixture(scope="module")
def stand(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    made = Stand(tmp_path_factory.mktemp("names"), fake)
    yield made
    for process in (made.gateway.process, made.tools.process, made.receiver):
        process.stop()


@pytest.mark.parametrize("path", ["/mcp", "/mcp/faulty"])
def test_a_tool_that_no_server_has_listed_is_not_called_and_metered_without_its_name(stand: Stand, path: str) -> None:
    prefix = "" if path.endswith("faulty") else "faulty__"
    before = len(stand.gateway.log_lines("tool_call"))
    for name in (NAME, "die" * 40, "x"):
        with pytest.raises(MCPError) as caught:
            call(stand.gateway.url + path, stand.gateway.key, f"{prefix}{name}", text=name)
        assert "no tool of this name" in str(caught.value) and name not in str(caught.value).split()
    lines = stand.gateway.log_lines("tool_call")[before:]
    assert [(line["tool"], line["outcome"]) for line in lines] == [("faulty__unknown", "refused")] * 3
    assert [stand.gateway.usage_of(line["request_id"])["model"] for line in lines] == ["faulty__unknown"] * 3
    assert call(stand.gateway.url + path, stand.gateway.key, f"{prefix}echo", text="a").content[0].text == "a"
    assert stand.gateway.log_lines("tool_call")[-1]["tool"] == "faulty__echo"
    assert "faulty__echo" in names(stand.gateway.url + "/mcp", stand.gateway.key)


def test_a_call_of_a_server_that_is_away_is_metered_without_the_name(own_gateway: Any) -> None:
    gateway = own_gateway(
        projects=[{"name": "demo", "all_models": True, "all_mcp_servers": True}],
        mcp_servers=[{"name": "away", "url": f"http://127.0.0.1:{free_port()}"}],
    )
    with pytest.raises(MCPError, match="cannot be reached"):
        call(f"{gateway.url}/mcp/away", gateway.key, NAME)
    (line,) = gateway.log_lines("tool_call")
    assert (line["tool"], line["outcome"]) == ("away__unknown", "upstream_error")


def test_a_name_that_a_caller_makes_up_is_left_nowhere(stand: Stand) -> None:
    gateway, headers = stand.gateway, stand.gateway.headers
    named = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "input": "hi", "query": "hi"}
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        f"/{NAME}",
        f"/mcp/{NAME}",
    ):
        http.post(gateway.url + path, headers=headers, json={**named, "prompt": "hi"}, timeout=20)
    for path in (
        f"models/{NAME}",
        f"files/{NAME}",
        f"vector_stores/{NAME}",
        f"responses/{NAME}",
        f"files?after={NAME}",
    ):
        for more in ({}, {"x-request-id": NAME, "user-agent": NAME, "baggage": f"a={NAME}", "traceparent": NAME}):
            http.get(f"{gateway.url}/v1/{path}", headers={**headers, **more}, timeout=20)
    http.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {NAME}"})
    for path in ("/v1/models", "/v1/chat/completions", "/mcp", f"/{NAME}"):
        http.request(NAME, gateway.url + path, headers=headers)
    stand.rpc(NAME, {})
    stand.rpc("tools/call", {"name": NAME, "arguments": {}}, "/mcp/faulty")
    stand.rpc("tools/call", {"name": f"faulty__{NAME}", "arguments": {}, "_meta": {"traceparent": NAME}})
    stand.rpc("prompts/get", {"name": NAME})
    stand.rpc("resources/read", {"uri": f"file:///{NAME}"})
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": NAME, "version": NAME}}
    stand.rpc("initialize", client)
    answer = gateway.chat("the last one")
    wait_until(
        lambda: answer.headers["x-tidegate-request-id"] in str(stand.left()[str(stand.spans)]), 10, "the last span"
    )
    gateway.usage_of(answer.headers["x-tidegate-request-id"])
    gateway.log_lines()
    assert [place for place, text in stand.left().items() if NAME.encode() in text] == []
    spans = [json.loads(line) for line in stand.spans.read_text().splitlines()]
    assert "tools/call faulty__unknown" in {span["name"] for span in spans}
