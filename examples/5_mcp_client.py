"""Tools for an MCP client: the official client, once in each era of the protocol, lists and calls them through one door."""

import asyncio
import os
from typing import Any, Literal

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

ROOT_URL = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
KEY = os.environ["OPENAI_API_KEY"]
Era = Literal["auto", "legacy"]
TOOLS = [
    "calendar__add_business_days",
    "calendar__business_days_between",
    "calendar__is_business_day",
    "calendar__list_holidays",
    "knowledge__list_stores",
    "knowledge__search",
    "knowledge__search_store",
]


async def main() -> None:
    """Both eras, then what happens without a key."""
    eras: tuple[Era, ...] = ("auto", "legacy")
    for era in eras:
        await use_tools(era)
    await without_credentials()


async def use_tools(era: Era) -> None:
    """Lists the tools of all servers, calls one of each, and is refused where the guardrails say so."""
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=30) as http:
        async with Client(streamable_http_client(f"{ROOT_URL}/mcp", http_client=http), mode=era) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == TOOLS, names
            day = await call(client, "calendar__add_business_days", date="2026-12-24", days=1, calendar="TARGET")
            assert day["date"] == "2026-12-28", day
            found = await call(client, "knowledge__search_store", query="What is the heron list?", store="handbook")
            assert any("0.85 percent" in passage["text"] for passage in found["result"]), found
            print(
                f"  {era}: {len(names)} tools; one TARGET day after 24 December is {day['date']}; {len(found['result'])} passages"
            )
            try:
                await client.call_tool("knowledge__search", {"query": "4111 1111 1111 1111"})
                raise AssertionError("a card number passed")
            except MCPError as error:
                print(f"  {era}: refused: {error.error.message[:60]}…")
        async with Client(streamable_http_client(f"{ROOT_URL}/mcp/calendar", http_client=http), mode=era) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == sorted(
                name.removeprefix("calendar__") for name in TOOLS if name.startswith("calendar")
            )


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """The structured result of a call that must succeed."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def without_credentials() -> None:
    """A client without a key learns where to get a token (RFC 9728)."""
    async with httpx2.AsyncClient() as http:
        refused = await http.post(f"{ROOT_URL}/mcp", json={})
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        metadata = (await http.get(challenge.partition('resource_metadata="')[2].rstrip('"'))).json()
        assert metadata["resource"].endswith("/mcp")
        print(f"  without a key: 401, {challenge}")


if __name__ == "__main__":
    asyncio.run(main())
