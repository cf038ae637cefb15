"""The door for tools, with the official client and real tool servers: both eras, rights, faults, guardrails, metering."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from mcp.shared.exceptions import MCPError

from tests.faulty_tools import PAN
from tests.knowledge_stand import Knowledge
from tests.stand import Fake, Gateway, free_port, http, wait_until
from tests.tool_stand import Era, ToolServer, call, names, use

ERAS: tuple[Era, ...] = ("auto", "legacy")
PROJECTS = [
    {"name": "demo", "all_mcp_servers": True},
    {"name": "narrow", "mcp_servers": ["calendar"]},
    {"name": "nothing"},
    {"name": "masked", "all_mcp_servers": True, "policy": "mask"},
    {"name": "slow", "all_mcp_servers": True, "limits": {"requests_per_minute": 3}},
]
POLICIES = [
    {"name": "default", "guardrails": [{"type": "pan"}]},
    {"name": "mask", "guardrails": [{"type": "pan", "on_input": "mask"}]},
]


class Desk:
    """A gateway with three tool servers behind it."""

    def __init__(self, folder: Path, fake: Fake, knowledge: Knowledge) -> None:
        port, self.folder = free_port(), folder
        public = knowledge.folder / "public.json"
        (folder / "gateway").mkdir()
        url = f"http://127.0.0.1:{port}"
        self.servers = {name: ToolServer(folder, name, public, url) for name in ("calendar", "knowledge", "faulty")}
        settings = {
            "max_result_bytes": 100_000,
            "call_timeout_s": 3,
            "list_timeout_s": 2,
            "allowed_origins": ["https://console.example"],
        }
        offered = [
            {"name": name, "url": server.url, "acts_for_caller": name == "knowledge"}
            for name, server in self.servers.items()
        ]
        self.gateway = Gateway(
            folder / "gateway",
            [fake.url],
            projects=PROJECTS,
            policies=POLICIES,
            mcp_servers=offered,
            settings={**knowledge.gateway_settings, "gateway": {"port": port}, "mcp": settings},
        )
        self.url, self.key = f"{url}/mcp", self.gateway.key

    def close(self) -> None:
        self.gateway.process.stop()
        for server in self.servers.values():
            server.process.stop()


@pytest.fixture(scope="module")
def desk(fake: Fake, knowledge: Knowledge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("tools"), fake, knowledge)
    yield made
    made.close()


# -- what is offered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_tools_of_all_servers_are_listed_in_order_under_their_servers_names(desk: Desk, era: Era) -> None:
    found = names(desk.url, desk.key, era)
    assert found == sorted(found) == names(desk.url, desk.key, era)
    assert {"calendar__add_business_days", "knowledge__search", "faulty__echo"} <= set(found)
    assert all(name.count("__") == 1 for name in found)


@pytest.mark.parametrize("era", ERAS)
def test_one_servers_tools_keep_their_own_names(desk: Desk, era: Era) -> None:
    url = f"{desk.url}/calendar"
    assert names(url, desk.key, era) == [
        "add_business_days",
        "business_days_between",
        "is_business_day",
        "list_holidays",
    ]
    result = call(url, desk.key, "is_business_day", era, date="2026-05-01", calendar="TARGET")
    assert result.structured_content["holiday"] == "Labour Day" and not result.is_error


@pytest.mark.parametrize("era", ERAS)
def test_a_key_sees_and_calls_only_what_its_project_may(desk: Desk, era: Era) -> None:
    narrow, nothing = desk.gateway.known_key("narrow"), desk.gateway.known_key("nothing")
    assert {name.partition("__")[0] for name in names(desk.url, narrow, era)} == {"calendar"}
    assert names(desk.url, nothing, era) == []
    with pytest.raises(MCPError, match="no tool of this name"):
        call(desk.url, narrow, "faulty__echo", era, text="x")
    refused = http.post(f"{desk.url}/faulty", headers={"authorization": f"Bearer {narrow}"}, json={})
    absent = http.post(f"{desk.url}/nowhere", headers={"authorization": f"Bearer {narrow}"}, json={})
    assert refused.status_code == absent.status_code == 404
    assert refused.json()["error"]["message"].replace("faulty", "nowhere") == absent.json()["error"]["message"]


def test_strange_tool_names_reach_no_server(desk: Desk) -> None:
    for name in ("echo", "faulty__", "faulty__echo\r\nx: y", "__echo", "faulty__a b", "nobody__echo", "calendar"):
        with pytest.raises(MCPError, match="no tool"):
            call(desk.url, desk.key, name)
    with pytest.raises(MCPError, match="no tool"):
        call(f"{desk.url}/faulty", desk.key, "echo\r\nx: y")


# -- who may come in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mcp", "/mcp/calendar", "/mcp/nowhere"])
def test_without_credentials_a_client_learns_where_to_get_them(desk: Desk, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer tg-wrong"}, {"authorization": "Bearer eyJ.x.y"}):
        answer = http.post(desk.gateway.url + path, headers=headers, json={})
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert challenge == f'Bearer resource_metadata="{desk.gateway.url}/.well-known/oauth-protected-resource{path}"'
    metadata = http.get(challenge.split('"')[1]).json()
    assert metadata["resource"] == desk.gateway.url + path and metadata["bearer_methods_supported"] == ["header"]
    assert http.get(desk.gateway.url + path).status_code == 401


def test_only_the_tools_have_a_metadata_document(desk: Desk) -> None:
    well_known = f"{desk.gateway.url}/.well-known/oauth-protected-resource"
    assert http.get(well_known).json()["resource"] == desk.url
    for path in ("/v1/models", "/mcp/a/b", "/mcp/", "/mcp/%0d%0ax", "/mcpx"):
        assert http.get(well_known + path).status_code == 404, path
        answer = http.post(desk.gateway.url + path, json={})
        assert "oauth-protected-resource/mcp/" not in answer.headers.get("www-authenticate", "")


def test_a_web_page_of_another_origin_is_refused(desk: Desk) -> None:
    headers = {**desk.gateway.headers, "origin": "https://evil.example"}
    answer = http.post(desk.url, headers=headers, json={})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
    allowed = http.post(desk.url, headers={**headers, "origin": "https://console.example"}, json={})
    assert allowed.status_code not in (401, 403)


def test_a_tool_server_takes_no_token_but_its_own(desk: Desk, knowledge: Knowledge) -> None:
    url = f"{desk.servers['calendar'].url}/mcp"
    for token in (
        desk.key,
        knowledge.headers("mcp:faulty")["authorization"][7:],
        knowledge.headers("gateway")["authorization"][7:],
    ):
        answer = http.post(url, headers={"authorization": f"Bearer {token}"}, json={})
        assert answer.status_code == 401
    assert "internal_token_refused" in desk.servers["calendar"].process.text()
    counted = http.get(f"{desk.servers['calendar'].url}/metrics").text
    assert 'tidegate_internal_tokens_refused_total{reason="audience"} 2.0' in counted
    assert 'tidegate_internal_tokens_refused_total{reason="malformed"} 1.0' in counted


def test_the_callers_key_does_not_reach_a_tool_server_and_delegation_only_where_it_is_allowed(desk: Desk) -> None:
    found = call(desk.url, desk.key, "faulty__who").structured_content
    assert found["project"] == "demo" and found["delegated"] == "False"
    assert desk.key.split("-")[2] not in desk.servers["faulty"].process.text()


# -- the tools themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_the_knowledge_tools_search_with_the_callers_rights(desk: Desk, knowledge: Knowledge, era: Era) -> None:
    knowledge.store(
        f"locks {era}", knowledge.file_id("locks.md", b"The sea lock closes when the tide gauge reads 380.")
    )
    found = call(
        desk.url, desk.key, "knowledge__search_store", era, query="when does the lock close?", store=f"locks {era}"
    )
    assert "380" in found.structured_content["result"][0]["text"]
    stores = call(desk.url, desk.key, "knowledge__list_stores", era).structured_content["result"]
    assert f"locks {era}" in {store["name"] for store in stores}
    other = desk.gateway.known_key("masked")
    refused = call(desk.url, other, "knowledge__search_store", era, query="lock", store=f"locks {era}")
    assert refused.is_error and "no vector store" in refused.content[0].text
    assert call(desk.url, other, "knowledge__list_stores", era).structured_content["result"] == []
    assert call(desk.url, other, "knowledge__search", era, query="lock").structured_content["result"] == []
    everywhere = call(desk.url, desk.key, "knowledge__search", era, query="when does the sea lock close?")
    assert "380" in str(everywhere.structured_content["result"])


def test_the_knowledge_tool_looks_through_all_stores_in_one_search(desk: Desk, knowledge: Knowledge) -> None:
    """The right passage comes first even though every store has a best one of its own."""
    for number, text in enumerate(["The granary holds rye.", "Swans nest in May.", "Ropes are tarred yearly."] * 3):
        knowledge.store(f"several {number}", knowledge.file_id(f"s{number}.md", f"{text} ({number})".encode()))
    knowledge.store("oldest no more", knowledge.file_id("buoys.md", b"Buoy 19 is painted green by the second pilot."))
    found = call(desk.url, desk.key, "knowledge__search", query="who paints buoy 19?")
    assert found.structured_content["result"][0]["filename"] == "buoys.md"


@pytest.mark.parametrize("era", ERAS)
def test_a_tools_own_error_is_passed_on(desk: Desk, era: Era) -> None:
    result = call(desk.url, desk.key, "faulty__fail", era)
    assert result.is_error and "the lock gate is stuck" in result.content[0].text


def test_a_tool_that_hangs_is_ended_by_the_time_limit(desk: Desk) -> None:
    began = time.monotonic()
    with pytest.raises(MCPError, match="did not answer in time") as caught:
        call(desk.url, desk.key, "faulty__hang", mark="late")
    assert time.monotonic() - began < 8 and caught.value.error.data["code"] == "upstream_timeout"
    wait_until(lambda: (desk.folder / "late.cancelled").exists(), 5, "the tool to be cancelled")


def test_a_result_that_is_too_large_is_an_error(desk: Desk) -> None:
    assert len(call(desk.url, desk.key, "faulty__big", size=1000).content[0].text) == 1000
    with pytest.raises(MCPError, match="more than is passed on") as caught:
        call(desk.url, desk.key, "faulty__big", size=10_000_000)
    assert caught.value.error.data["code"] == "answer_too_large"


def test_a_caller_who_hangs_up_cancels_the_tool(desk: Desk) -> None:
    prefix = "io.modelcontextprotocol/"
    meta = {
        f"{prefix}protocolVersion": "2026-07-28",
        f"{prefix}clientInfo": {"name": "t", "version": "1"},
        f"{prefix}clientCapabilities": {},
    }
    params = {"name": "faulty__hang", "arguments": {"mark": "left"}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {**desk.gateway.headers, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call"}
    headers |= {"mcp-name": "faulty__hang", "accept": "application/json, text/event-stream"}

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            asking = asyncio.ensure_future(client.post(desk.url, headers=headers, json=body))
            for _ in range(100):
                await asyncio.sleep(0.02)
                if (desk.folder / "left.begun").exists():
                    break
            asking.cancel()

    asyncio.run(leave())
    wait_until(lambda: (desk.folder / "left.cancelled").exists(), 2.5, "the tool to be cancelled")
    rows = [line for line in desk.gateway.log_lines("tool_call") if line["outcome"] == "cancelled"]
    assert rows and rows[-1]["tool"] == "faulty__hang"


def test_a_server_that_is_down_is_an_error_and_not_a_shorter_list(desk: Desk) -> None:
    server = desk.servers["calendar"]
    server.process.kill()
    try:
        for era in ERAS:
            with pytest.raises(MCPError, match="mcp:calendar service cannot be reached"):
                names(desk.url, desk.key, era)
            with pytest.raises(MCPError, match="cannot be reached"):
                call(desk.url, desk.key, "calendar__list_holidays", era, year=2026, calendar="DE")
            assert call(f"{desk.url}/faulty", desk.key, "echo", era, text="still here").content[0].text == "still here"
    finally:
        server.start()
    assert names(f"{desk.url}/calendar", desk.key)


# -- guardrails, limits, metering -------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_guardrails_read_arguments_and_results(desk: Desk, era: Era) -> None:
    with pytest.raises(MCPError, match="payment card number") as caught:
        call(desk.url, desk.key, "faulty__echo", era, text=f"card {PAN}")
    assert caught.value.error.data["code"] == "content_filter"
    withheld = call(desk.url, desk.key, "faulty__leak", era)
    assert withheld.is_error and "withheld" in withheld.content[0].text and PAN not in str(withheld)
    masked = desk.gateway.known_key("masked")
    shown = call(desk.url, masked, "faulty__echo", era, text=f"card {PAN}")
    assert not shown.is_error and PAN not in str(shown) and "card" in shown.content[0].text
    assert PAN not in str(call(desk.url, masked, "faulty__leak", era))
    assert PAN not in desk.gateway.process.text() + desk.servers["faulty"].process.text()


def test_each_call_is_metered_once_and_lists_are_not(desk: Desk) -> None:
    began = time.time()
    names(desk.url, desk.key)
    call(desk.url, desk.key, "faulty__echo", text="once")
    call(desk.url, desk.key, "faulty__fail")
    with pytest.raises(MCPError):
        call(desk.url, desk.key, "faulty__echo", text=PAN)

    def new_rows() -> list[dict[str, Any]]:
        return [row for row in desk.gateway.usage() if row["path"] == "/mcp" and row["started_at"] > began]

    rows = wait_until(lambda: (found := new_rows()) and len(found) >= 3 and found, 10, "three usage rows")
    assert sorted((row["model"], row["outcome"]) for row in rows) == [
        ("faulty__echo", "ok"), ("faulty__echo", "refused"), ("faulty__fail", "ok"),
    ]  # fmt: skip
    assert all(row["project"] == "demo" and row["replica"] == desk.servers["faulty"].url for row in rows)
    assert desk.gateway.metrics()['tidegate_tool_calls_total{outcome="ok",server="faulty"}'] >= 2


def test_the_projects_request_rate_holds_for_tools_too(desk: Desk) -> None:
    key = desk.gateway.known_key("slow")

    async def work(client: Any) -> list[str]:
        said = []
        for _ in range(6):
            try:
                await client.call_tool("faulty__echo", {"text": "x"})
                said.append("ok")
            except MCPError as error:
                said.append(error.error.data["code"])
        return said

    said = use(desk.url, key, work)
    assert "rate_limit_exceeded" in said and said.count("ok") <= 3


def test_nothing_that_is_not_mcp_breaks_the_door(desk: Desk) -> None:
    json_type = {
        **desk.gateway.headers,
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "no/such"}).encode(),
        b"\xff" * 100,
    ):
        for version in ("2026-07-28", "2025-06-18", "1999-01-01"):
            answer = http.post(desk.url, headers={**json_type, "mcp-protocol-version": version}, content=content)
            assert answer.status_code < 500, (content, version, answer.text)
    huge = http.post(desk.url, headers=json_type, content=b'{"x": "' + b"x" * 5_000_000 + b'"}')
    assert huge.status_code == 413
    assert call(desk.url, desk.key, "faulty__echo", text="still here").content[0].text == "still here"
    assert not [line for line in desk.gateway.log_lines() if line["event"] == "defect"]
