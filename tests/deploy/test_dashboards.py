"""Every query of every dashboard is PromQL, asks for what is emitted, and groups by labels that it has."""

import json
import re
from typing import Any

import promql_parser
import pytest

from tests.deploy.charts import merged, profile, render
from tests.deploy.test_alerts import rules
from tests.stand import Gateway, http
from tidegate.telemetry.names import METRICS

FROM_SCRAPING = {"pod", "namespace", "service"}
EMITTED: dict[str, set[str]] = {}
for metric in METRICS:
    if metric.kind == "histogram":
        EMITTED |= {f"{metric.name}_{part}": {*metric.labels, "le"} for part in ("bucket", "count", "sum")}
    else:
        EMITTED[metric.name + ("_total" if metric.kind == "counter" else "")] = set(metric.labels)


def dashboards() -> dict[str, dict[str, Any]]:
    """By name, as Grafana reads them."""
    return {
        name: json.loads(text)
        for document in render(profile("small"))
        if document["metadata"]["labels"].get("grafana_dashboard")
        for name, text in document["data"].items()
    }


BOARDS = dashboards()
QUERIES = [
    (name, target["expr"]) for name, board in BOARDS.items() for panel in board["panels"] for target in panel["targets"]
]


def metrics_of(query: str) -> set[str]:
    return set(re.findall(r"(?<![\w:])(?:tidegate|gen_ai|vllm)[:_][\w:]+", query))


def test_there_is_a_dashboard_for_everyone_who_needs_one() -> None:
    assert set(BOARDS) == {f"tidegate-{name}.json" for name in ("platform", "tenants", "replicas", "guardrails")}
    assert len({board["uid"] for board in BOARDS.values()}) == 4
    off = merged(profile("small"), {"monitoring": {"dashboards": {"enabled": False}}})
    assert not [d for d in render(off) if "grafana_dashboard" in d["metadata"]["labels"]]


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_laid_out(name: str) -> None:
    panels = BOARDS[name]["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["id"] for panel in panels}) >= 6
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"]["uid"] == "${source}" and panel["targets"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[f"{name}: {query[:60]}" for name, query in QUERIES])
def test_a_query_can_be_answered(name: str, query: str) -> None:
    promql_parser.parse(query.replace("$__rate_interval", "5m"))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    found = metrics_of(query)
    assert found
    for metric in found:
        if metric.startswith("vllm:") or metric in recorded:
            continue  # tests/live/test_container.py asks vLLM
        assert metric in EMITTED, metric
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
        assert grouped <= EMITTED[metric] | FROM_SCRAPING, query


def test_a_running_gateway_shows_what_dashboards_and_alerts_ask_of_it(gateway: Gateway) -> None:
    gateway.chat(max_tokens=1)
    text = http.get(f"{gateway.management_url}/metrics").text
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    asked = {name for _, query in QUERIES for name in metrics_of(query)}
    asked |= {name for rule in rules() for name in metrics_of(rule["expr"])}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    ours = {name for name in asked - recorded if not name.startswith("vllm:")}
    assert len(ours) > 15
    assert {re.sub(r"_(bucket|count)$", "", name) for name in ours} <= shown
    series = gateway.metrics()
    assert series['tidegate_project_requests_total{organisation="acme",outcome="ok",project="demo"}'] >= 1
    assert series['tidegate_project_tokens_total{direction="output",organisation="acme",project="demo"}'] >= 1
