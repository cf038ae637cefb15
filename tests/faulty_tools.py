"""A hosted tool server whose tools misbehave on demand: `python -m tests.faulty_tools PORT KEYS MARKS`."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from mcp_servers.hosting.process import Deps, serve
from mcp_servers.hosting.tokens import TokenChecker, caller
from tests.tool_stand import call

PAN = os.environ.get("FAULTY_PAN", "4111 1111 1111 1111")


def build(deps: Deps) -> MCPServer:
    marks = Path(deps.gateway_url)
    server = MCPServer("faulty")

    @server.tool()
    def echo(text: str) -> str:
        """Gives the text back."""
        return text

    @server.tool()
    def who() -> dict[str, str]:
        """On whose behalf it is called."""
        found = caller.get()
        return {
            "project": found.project,
            "request_id": found.request_id,
            "delegated": str(found.delegation is not None),
        }

    @server.tool()
    async def hang(mark: str) -> str:
        """Never answers; leaves marks when it begins and when it is cancelled."""
        (marks / f"{mark}.begun").touch()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            (marks / f"{mark}.cancelled").touch()
            raise
        return "never"

    @server.tool()
    def big(size: int) -> str:
        """A long answer."""
        return "x" * size

    @server.tool()
    def fail() -> str:
        """An error of the tool's own."""
        raise ToolError("the lock gate is stuck")

    @server.tool()
    def leak() -> dict[str, str]:
        """A result that no policy lets pass."""
        return {"slip": f"card {PAN}"}

    @server.tool()
    def die() -> str:
        """Ends the process."""
        os._exit(3)

    add_passing_on(server)
    return server


def add_passing_on(server: MCPServer) -> None:
    threads = ThreadPoolExecutor(32)

    @server.tool()
    async def pass_on(gateway: str, left: int) -> list[str]:
        """Calls itself `left` times through the gateway at `gateway`, on the caller's behalf; the token of every call."""
        token = caller.get().delegation or ""
        if left == 0:
            return [token]
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                threads, lambda: call(gateway, token, "pass_on", gateway=gateway, left=left - 1)
            )
        except (MCPError, ExceptionGroup) as error:
            raise ToolError(str(error)) from error
        if found.is_error:
            raise ToolError(found.content[0].text)
        return [token, *found.structured_content["result"]]


if __name__ == "__main__":
    port, keys, folder = sys.argv[1:]
    sys.exit(serve(build, Deps("faulty", folder), TokenChecker(Path(keys), "mcp:faulty"), "127.0.0.1", int(port)))
