"""Every check that the given targets allow, in one order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.markup import escape

from tidegate.config.load import Document
from tidegate.errors import ConfigError
from tidegate.preflight import cluster, services, vllm
from tidegate.preflight.api import Cluster, CommandLine
from tidegate.preflight.finding import Finding, Status
from tidegate.preflight.plan import Plan

_SIGNS = {
    Status.OK: "[green]✓[/]",
    Status.WARNING: "[yellow]![/]",
    Status.UNKNOWN: "[yellow]?[/]",
    Status.FAILED: "[red]✗[/]",
}


@dataclass(frozen=True, slots=True)
class Targets:
    """What to look at; what is not given is not looked at."""

    manifests: str | None = None
    namespace: str = ""
    document: Document | None = None
    vllm_help: str | None = None
    qdrant: str = ""


def look(targets: Targets, api: Cluster | None = None) -> Iterator[Finding]:
    """Findings as they are made; `api` is the cluster that the command line is logged in to, unless given.

    Raises:
        OperatorError: nothing to look at, manifests that are none, or a cluster that does not answer.
    """
    plan = None if targets.manifests is None else Plan.read(targets.manifests)
    if targets.vllm_help is not None and plan is None:
        raise ConfigError("--vllm-help says what is known; --manifests says what is wanted: give both")
    if plan is not None:
        if not targets.namespace:
            raise ConfigError("--manifests needs --namespace: where is it to be installed?")
        yield from cluster.look(plan, api or CommandLine(), targets.namespace)
        if targets.vllm_help is not None:
            yield vllm.flags(plan.vllm_flags, targets.vllm_help)
    elif targets.document is None and not targets.qdrant:
        raise ConfigError("nothing to look at: give --manifests, --config or both")
    if targets.document is not None:
        yield from services.look(
            targets.document, plan.services if plan else set(), plan.vllm_metrics if plan else set()
        )
    if targets.qdrant:
        yield services.qdrant(targets.qdrant)


def as_line(finding: Finding) -> str:
    """For people, with colours."""
    remedy = f" [dim]→ {escape(finding.remedy)}[/]" if finding.remedy else ""
    return f"{_SIGNS[finding.status]} {finding.check}: {escape(finding.what)}{remedy}"


def as_json_text(found: Sequence[Finding]) -> str:
    """For programs: `passed`, how many of each status, and all findings."""
    counts = {status.value: sum(each.status is status for each in found) for status in Status}
    passed = not counts[Status.FAILED]
    return json.dumps({"passed": passed, "counts": counts, "findings": [asdict(each) for each in found]})
