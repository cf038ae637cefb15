"""Values every room speaks of. Frozen, no I/O."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limits:
    """What a project may use; `None` is no limit."""

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, as the key says; nothing in a body can change it."""

    organisation: str
    project: str
    key_id: str
    models: frozenset[str] | None
    """Models the project may use; `None` is all of them."""
    policy: str
    limits: Limits
    mcp_servers: frozenset[str] | None = frozenset()
    """Tool servers the project may use; `None` is all of them."""

    @property
    def tenant(self) -> tuple[str, str]:
        """Organisation and project, by which resources are shared fairly."""
        return self.organisation, self.project

    def may_call(self, server: str) -> bool:
        """Whether the tools of `server` are open to this principal."""
        return self.mcp_servers is None or server in self.mcp_servers

    def may_use(self, model: str) -> bool:
        """Whether `model` is open to this principal."""
        return self.models is None or model in self.models


class UsageSource(StrEnum):
    """Where token numbers come from, best first."""

    REPORTED = "reported"
    COUNTED = "counted"
    ESTIMATED = "estimated"


class Usage(NamedTuple):
    """Tokens of one request. `cached` is part of `input`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    source: UsageSource = UsageSource.ESTIMATED


class Outcome(StrEnum):
    """How a request ended; one of these stands in every usage row."""

    OK = "ok"
    REFUSED = "refused"
    """A guardrail or a check stopped it before dispatch."""
    FILTERED = "filtered"
    """A guardrail stopped the answer."""
    UPSTREAM_REFUSED = "upstream_refused"
    """The model server answered with a 4xx, passed on."""
    UPSTREAM_ERROR = "upstream_error"
    CANCELLED = "cancelled"
    """The caller hung up."""
    INTERRUPTED = "interrupted"
    """The gateway died while it ran, which recovery writes down; or it was stopped, and the time to finish was over."""
    ERROR = "error"
    """A defect of ours."""


class Action(StrEnum):
    """What a guardrail does about a finding."""

    OFF = "off"
    MASK = "mask"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One guardrail's decision; never holds the text it was made on."""

    guardrail: str
    origin: str
    """`input`, `output` or `retrieved`."""
    action: Action
    findings: int
