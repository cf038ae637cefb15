"""Reads the spans that arrived at the local receiver and shows a trace as a tree."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.tree import Tree

Span = dict[str, Any]
_SHOWN = (
    "gen_ai.",
    "http.response.status_code",
    "tidegate.outcome",
    "tidegate.guardrail",
    "server.address",
    "error.type",
)


def read_trace(spans_file: Path, trace_id: str) -> list[Span]:
    """The spans of a trace that have arrived, by start time."""
    if not spans_file.exists():
        return []
    with spans_file.open() as file:
        found = [span for line in file if (span := json.loads(line))["trace_id"] == trace_id]
    return sorted(found, key=lambda span: int(span["start_ns"]))


def ancestors(spans: list[Span], span: Span) -> Iterator[Span]:
    """The span's parent, its parent, and so on, as far as they arrived."""
    by_id = {item["span_id"]: item for item in spans}
    while (parent := by_id.get(span["parent_id"])) is not None:
        yield parent
        span = parent


def as_tree(spans: list[Span], trace_id: str) -> Tree:
    """The trace; a span whose parent did not arrive (the caller's own, say) hangs at the root."""
    tree = Tree(f"trace {trace_id}", highlight=False)
    known = {span["span_id"] for span in spans}
    origin = int(spans[0]["start_ns"]) if spans else 0

    def add(parent: Tree, span: Span) -> None:
        branch = parent.add(_line(span, origin), highlight=False)
        for child in spans:
            if child["parent_id"] == span["span_id"]:
                add(branch, child)

    for span in spans:
        if span["parent_id"] not in known:
            add(tree, span)
    return tree


def _line(span: Span, origin: int) -> str:
    start_ms = (int(span["start_ns"]) - origin) / 1e6
    took_ms = (int(span["end_ns"]) - int(span["start_ns"])) / 1e6
    shown = {key: value for key, value in span["attributes"].items() if key.startswith(_SHOWN)}
    told = "  ".join(f"{key}={_short(value)}" for key, value in sorted(shown.items()))
    return f"[bold]{span['service']}[/] {span['name']}  +{start_ms:.1f} ms, {took_ms:.1f} ms  [dim]{told}[/]"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("[", "(").replace("]", ")")
