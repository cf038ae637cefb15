"""One request to the door, as far as the tools need to know it."""

import re
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.trace import SpanContext

from gateway.snapshot import Snapshot, ToolServer
from guardrails.engine.policy import Policy
from tidegate.errors import NotFound
from tidegate.identity import Caller, caller_for
from tidegate.types import Principal

JOINT = "__"
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""What may be a tool's name; it travels in a header."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Who calls, and what of the tool servers he may see here."""

    principal: Principal
    snapshot: Snapshot
    delegated: Caller | None
    """What the request's token says, where a service makes the request for the caller."""
    trace: SpanContext | None
    """The caller's span, from the HTTP header."""
    only: str | None
    """The one server of `/mcp/{server}`, whose tools keep their own names; None where all are offered."""

    @property
    def parent_request_id(self) -> str | None:
        """The request in whose course this one is made."""
        return None if self.delegated is None else self.delegated.request_id

    def caller(self, request_id: str) -> Caller:
        """On whose behalf tool servers are called."""
        return caller_for(self.principal, request_id, self.delegated)

    @property
    def policy(self) -> Policy:
        """The project's policy."""
        return self.snapshot.policies[self.principal.policy]

    def servers(self) -> list[ToolServer]:
        """The tool servers that are offered here, sorted by name.

        Raises:
            NotFound: there is no such server, or it is not this key's.
        """
        mine = self.snapshot.tool_servers_of(self.principal)
        if self.only is None:
            return mine
        found = [server for server in mine if server.name == self.only]
        if not found:
            raise NotFound(f"There is no tool server {self.only[:64]!r}, or this key may not use it.")
        return found

    def resolve(self, name: str) -> tuple[ToolServer, str]:
        """The server and its own name for the tool that is offered as `name`.

        Raises:
            NotFound: no such server is offered here.
        """
        if self.only is not None and TOOL_NAME.fullmatch(name):
            return self.servers()[0], name
        server_name, _, tool = name.partition(JOINT)
        for server in self.servers():
            if self.only is None and server.name == server_name and TOOL_NAME.fullmatch(tool):
                return server, tool
        raise no_tool()

    def offered(self, server: ToolServer, tool: str) -> str:
        """The name under which a server's tool is offered here."""
        return tool if self.only is not None else f"{server.name}{JOINT}{tool}"


def no_tool() -> NotFound:
    """The error for a tool that does not exist or is not the caller's. It does not repeat the name, which may be anything."""
    return NotFound(
        "There is no tool of this name, or this key may not use it. `tools/list` names those that there are."
    )


VISIT: ContextVar[Visit] = ContextVar("visit")
