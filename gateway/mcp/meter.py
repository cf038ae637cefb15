"""A tool call's usage row, log line and metrics: as for a model call, without tokens."""

import time
from dataclasses import dataclass, field
from typing import Any

from gateway.exchange import new_request_id
from gateway.ledger.journal import Journal
from gateway.mcp.visit import Visit
from gateway.snapshot import ToolServer
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Outcome, UsageSource, Verdict

PATH = "/mcp"


@dataclass(slots=True)
class Call:
    """What is known of a call so far."""

    started_at: float
    """Unix time, s."""
    began: float
    request_id: str = field(default_factory=lambda: new_request_id(time.time()))
    outcome: Outcome = Outcome.ERROR
    code: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    row: dict[str, Any] | None = None
    """The usage row; from `begin` on there is exactly one."""
    server: str = ""


class ToolMeter:
    """Writes down what a tool call was."""

    def __init__(self, journal: Journal, metrics: Metrics, log: JsonLog) -> None:
        self._journal = journal
        self._metrics = metrics
        self._log = log

    def begin(self, call: Call, visit: Visit, server: ToolServer, tool: str, trace_id: str) -> None:
        """Journals that a call is about to be made; a crash from here on leaves an `interrupted` row.

        Raises:
            JournalFull: the journal cannot be written.
        """
        principal = visit.principal
        call.server = server.name
        row = {
            "request_id": call.request_id,
            "organisation": principal.organisation,
            "project": principal.project,
            "key_id": principal.key_id,
            "model": tool[:128],
            "path": PATH,
            "replica": server.url,
            "stream": False,
            "outcome": call.outcome,
            "http_status": None,
            "input_tokens": 0,
            "output_tokens": 0,
            "cached_tokens": 0,
            "usage_source": UsageSource.COUNTED,
            "started_at": call.started_at,
            "duration_ms": None,
            "ttft_ms": None,
            "parent_request_id": visit.parent_request_id,
            "trace_id": trace_id,
        }
        self._journal.begin(row)
        call.row = row

    def settle(self, call: Call) -> None:
        """On every exit. Never awaits."""
        duration_s = time.perf_counter() - call.began
        for verdict in call.verdicts:
            self._metrics.count(names.VERDICTS, verdict.guardrail, verdict.origin, verdict.action, by=verdict.findings)
        if call.row is None:
            return  # no such tool, or refused before there was anything to meter
        call.row |= {"outcome": call.outcome, "duration_ms": round(duration_s * 1000, 3)}
        try:
            self._journal.end(call.row)
        except OSError as error:
            self._log.write("critical", "journal_not_written", request_id=call.request_id, reason=error.strerror)
        self._metrics.count(names.TOOL_CALLS, call.server, call.outcome)
        self._metrics.observe(names.TOOL_DURATION, duration_s, call.server)
        self._log.write(
            "info",
            "tool_call",
            request_id=call.request_id,
            parent_request_id=call.row["parent_request_id"],
            organisation=call.row["organisation"],
            project=call.row["project"],
            key_id=call.row["key_id"],
            tool=call.row["model"],
            outcome=call.outcome,
            code=call.code,
            duration_ms=round(duration_s * 1000, 2),
        )
