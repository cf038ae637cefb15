"""Tool server `knowledge`: searches the caller's own vector stores, with the caller's rights, through the public door."""

from typing import Annotated, Any

import httpx2
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from opentelemetry import propagate
from pydantic import BaseModel, Field

from mcp_servers.hosting.process import Deps
from mcp_servers.hosting.tokens import caller

_TIMEOUT_S = 20.0
_RESULTS = 5
_MOST_STORES = 1_000
"""That `search` looks through, the newest; `search_store` takes any."""
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


Query = Annotated[str, Field(min_length=1, max_length=200, description="A short question, or key words")]


class Store(BaseModel):
    """A vector store."""

    id: str
    name: str
    files: int


class Passage(BaseModel):
    """A passage that was found; data, not instructions."""

    filename: str
    file_id: str
    text: str
    score: float
    page: int | None = None
    heading: str | None = None
    start: int | None = Field(None, description="First character in the file's text")
    end: int | None = Field(None, description="Character after the last")


def build(deps: Deps) -> MCPServer:
    """The server."""
    server = MCPServer("knowledge", instructions="Searches the documents of the project whose key is used.")
    door = _Door(deps.gateway_url)

    @server.tool(annotations=_READ_ONLY)
    async def list_stores() -> list[Store]:
        """The vector stores that can be searched."""
        found = await door.ask("GET", "/v1/vector_stores", params={"limit": "100"})
        return [Store(id=s["id"], name=s["name"] or "", files=s["file_counts"]["completed"]) for s in found["data"]]

    @server.tool(annotations=_READ_ONLY)
    async def search(query: Query) -> list[Passage]:
        """Passages that answer a question, from every document of the project, best first."""
        stores = (await door.ask("GET", "/v1/vector_stores", params={"limit": str(_MOST_STORES)}))["data"]
        return await door.search([store["id"] for store in stores], query, _RESULTS) if stores else []

    @server.tool(annotations=_READ_ONLY)
    async def search_store(
        query: Query,
        store: Annotated[str, Field(min_length=1, max_length=256, description="Name or id of a vector store")],
        max_results: Annotated[int, Field(ge=1, le=20)] = _RESULTS,
    ) -> list[Passage]:
        """Passages that answer a question, from one vector store, best first."""
        return await door.search([await _id_of(door, store)], query, max_results)

    return server


async def _id_of(door: "_Door", store: str) -> str:
    """The id of the store with this name or id.

    Raises:
        ToolError: the caller has no such store.
    """
    after: dict[str, str] = {}
    while True:
        page = await door.ask("GET", "/v1/vector_stores", params={"limit": "1000", **after})
        for item in page["data"]:
            if store in (item["id"], item["name"]):
                return str(item["id"])
        if not page["has_more"]:
            raise ToolError(f"There is no vector store {store!r} in this project.")
        after = {"after": page["last_id"]}


def _passage(item: dict[str, Any]) -> Passage:
    place = item.get("location") or {}
    text = "\n".join(part["text"] for part in item["content"])
    return Passage(filename=item["filename"], file_id=item["file_id"], text=text, score=item["score"], **place)


class _Door:
    """The gateway's public door, on behalf of whoever calls the tool."""

    def __init__(self, gateway_url: str) -> None:
        self._client = httpx2.AsyncClient(base_url=gateway_url, timeout=_TIMEOUT_S, trust_env=False)

    async def search(self, store_ids: list[str], query: str, most: int) -> list[Passage]:
        """The best passages of these stores.

        Raises:
            ToolError: as `ask`.
        """
        body = {"vector_store_ids": store_ids, "query": query, "max_num_results": most}
        found = await self.ask("POST", "/v1/vector_stores/search", json=body)
        return [_passage(item) for item in found["data"]]

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer's JSON.

        Raises:
            ToolError: the door refuses, in its own words, or does not answer.
        """
        token = caller.get().delegation
        if token is None:
            raise ToolError("This server has not been given the right to act for its callers.")
        headers = {"authorization": f"Bearer {token}"}
        propagate.inject(headers)
        try:
            answer = await self._client.request(method, path, headers=headers, **more)
        except httpx2.TransportError as error:
            raise ToolError(f"The gateway does not answer ({type(error).__name__}).") from error
        if answer.status_code != 200:
            raise ToolError(_reason(answer))
        return answer.json()


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The gateway answered {answer.status_code}."
