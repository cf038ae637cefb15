"""No project can use up what is there for the tools of all: calls, lists, streams, bodies."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.stand import Fake, Gateway, free_port, http, wait_until
from tests.tool_stand import ToolServer, call, names
from tidegate.identity import make_keys

_PREFIX = "io.modelcontextprotocol/"
META = {
    f"{_PREFIX}protocolVersion": "2026-07-28",
    f"{_PREFIX}clientInfo": {"name": "t", "version": "1"},
    f"{_PREFIX}clientCapabilities": {},
}


class Stand:
    """A gateway that runs eight tool calls, two of a project; a tool server, and one that never answers."""

    def __init__(self, folder: Path, fake: Fake, stuck_port: int) -> None:
        self.folder = folder
        keys = {"signing_key_file": str(folder / "private.json"), "public_keys_file": str(folder / "public.json")}
        make_keys(folder / "private.json", folder / "public.json")
        self.tools = ToolServer(folder, "faulty", folder / "public.json")
        (folder / "gateway").mkdir()
        self.gateway = Gateway(
            folder / "gateway",
            [fake.url],
            projects=[
                {"name": "demo", "all_models": True, "mcp_servers": ["faulty"]},
                {"name": "greedy", "mcp_servers": ["faulty", "stuck"]},
                {"name": "other", "mcp_servers": ["faulty"]},
                {"name": "single", "all_models": True, "mcp_servers": ["faulty"], "limits": {"concurrent_requests": 1}},
            ],
            mcp_servers=[
                {"name": "faulty", "url": self.tools.url},
                {"name": "stuck", "url": f"http://127.0.0.1:{stuck_port}"},
            ],
            settings={"identity": keys, "mcp": {"max_calls": 8, "list_timeout_s": 30, "call_timeout_s": 30}},
        )
        self.url = f"{self.gateway.url}/mcp"
        self.keys = {name: self.gateway.known_key(name) for name in ("demo", "greedy", "other", "single")}

    def headers(self, project: str) -> dict[str, str]:
        accept = "application/json, text/event-stream"
        return {"authorization": f"Bearer {self.keys[project]}", "accept": accept, "content-type": "application/json"}

    @contextmanager
    def open_request(self, project: str, method: str, length: int | None = None, **params: Any) -> Iterator[None]:
        """A request that is under way inside the block; with a `length` only the beginning of its body is sent."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}).encode()
        headers = {**self.headers(project), "mcp-protocol-version": "2026-07-28", "mcp-method": method, "host": "x"}
        headers |= {"mcp-name": params["name"]} if "name" in params else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection(("127.0.0.1", self.gateway.port)) as sender:
            head = f"POST /mcp HTTP/1.1\r\n{lines}content-length: {length or len(body)}\r\n\r\n"
            sender.sendall(head.encode() + body)
            yield

    @contextmanager
    def hanging(self, project: str, mark: str) -> Iterator[None]:
        """A tool call that is under way inside the block."""
        with self.open_request(project, "tools/call", name="faulty__hang", arguments={"mark": mark}):
            wait_until((self.folder / f"{mark}.begun").exists, 10, "the tool to begin")
            yield

    def freed(self, work: Callable[[], Any]) -> Any:
        """What `work` gives, as soon as it is not refused any more."""

        def tried() -> Any:
            try:
                return work()
            except MCPError:
                return None

        return wait_until(tried, 10, "room")


@pytest.fixture(scope="module")
def stand(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with socket.create_server(("127.0.0.1", free_port())) as stuck:  # nobody accepts what comes
        made = Stand(tmp_path_factory.mktemp("shares"), fake, stuck.getsockname()[1])
        yield made
        made.gateway.process.stop()
        made.tools.process.stop()


def refusal(action: Callable[[], Any]) -> tuple[int, str]:
    """Code of JSON-RPC, and the code that the other APIs use."""
    with pytest.raises(MCPError) as caught:
        action()
    return caught.value.error.code, caught.value.error.data["code"]


def test_stalled_calls_of_one_project_leave_room_for_the_others(stand: Stand) -> None:
    def echo(project: str) -> str:
        return str(call(f"{stand.url}/faulty", stand.keys[project], "echo", text="here").content[0].text)

    with stand.hanging("greedy", "a"), stand.hanging("greedy", "b"):
        assert refusal(lambda: echo("greedy")) == (-32000, "rate_limit_exceeded")
        assert refusal(lambda: names(stand.url, stand.keys["greedy"])) == (-32000, "rate_limit_exceeded")
        assert echo("other") == "here" and "faulty__echo" in names(stand.url, stand.keys["demo"])
    assert stand.freed(lambda: echo("greedy")) == "here"


def test_stalled_lists_count_as_calls(stand: Stand) -> None:
    with stand.open_request("greedy", "tools/list"), stand.open_request("greedy", "tools/list"):
        wait_until(
            lambda: http.post(
                stand.url,
                headers={**stand.headers("greedy"), "mcp-protocol-version": "2025-06-18"},
                json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "faulty__echo"}},
                timeout=20,
            ).text.count("share of tool calls"),
            10,
            "the project's share to be used up",
        )
        assert call(stand.url, stand.keys["other"], "faulty__echo", text="here").content[0].text == "here"
        assert "faulty__echo" in names(stand.url, stand.keys["demo"])
    stand.freed(lambda: call(f"{stand.url}/faulty", stand.keys["greedy"], "echo", text="here"))


def test_tool_calls_have_slots_of_their_own_so_that_a_tool_may_call_models(stand: Stand) -> None:
    key = stand.keys["single"]
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with stand.hanging("single", "c"):
        assert refusal(lambda: call(stand.url, key, "faulty__echo", text="x")) == (-32000, "rate_limit_exceeded")
        assert stand.gateway.post(chat, key=key).status_code == 200
    stand.freed(lambda: call(stand.url, key, "faulty__echo", text="x"))
    assert stand.gateway.post(chat, key=key).status_code == 200


def test_no_stream_is_kept_open(stand: Stand) -> None:
    for path in ("/mcp", "/mcp/faulty"):
        for method in ("GET", "DELETE", "PUT"):
            answer = http.request(method, stand.gateway.url + path, headers=stand.headers("demo"), timeout=10)
            assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    for method in ("subscriptions/listen", "resources/subscribe", "logging/setLevel"):
        for version in ("2026-07-28", "2025-06-18"):
            headers = {**stand.headers("demo"), "mcp-protocol-version": version, "mcp-method": method}
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"notifications": {}, "_meta": META}}
            answer = http.post(stand.url, headers=headers, json=body, timeout=10)
            assert '"error"' in answer.text, answer.text


def test_half_sent_requests_hold_a_share_of_memory_at_most(stand: Stand) -> None:
    with ExitStack() as held:
        for _ in range(16):
            held.enter_context(stand.open_request("greedy", "tools/list", length=1_048_576))

        def status(project: str) -> int:
            body = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
            return http.post(stand.url, headers=stand.headers(project), json=body, timeout=10).status_code

        wait_until(lambda: status("greedy") == 429, 10, "the project's share to be used up")
        assert status("other") not in (429, 503)
        assert call(stand.url, stand.keys["demo"], "faulty__echo", text="here").content[0].text == "here"
    wait_until(lambda: status("greedy") != 429, 10, "the share to come back")


def test_a_request_is_bounded_before_it_is_parsed(stand: Stand) -> None:
    call_ = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "faulty__echo", "arguments": {}}}
    large = {**call_, "params": {"name": "faulty__echo", "arguments": {"text": "x" * 1_100_000}}}
    assert http.post(stand.url, headers=stand.headers("demo"), json=large, timeout=10).status_code == 413
    deep = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    for content in (deep, json.dumps([call_] * 1000).encode()):
        answer = http.post(stand.url, headers=stand.headers("demo"), content=content, timeout=10)
        assert answer.status_code == 400, answer.text
    assert stand.gateway.log_lines("defect") == []


def test_many_initializations_do_not_stop_another_project(stand: Stand) -> None:
    """A project has as many requests of every kind at the door as there are tool calls, and the rest is refused at once."""
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    seen: list[int] = []

    def initialize() -> None:
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        seen.append(http.post(stand.url, headers=stand.headers("greedy"), json=body, timeout=20).status_code)

    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(stand.open_request("greedy", "tools/list", length=5_000))
        threads = [threading.Thread(target=initialize) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert call(stand.url, stand.keys["other"], "faulty__echo", text="here").content[0].text == "here"
        for thread in threads:
            thread.join()
    assert set(seen) <= {200, 429} and 429 in seen
