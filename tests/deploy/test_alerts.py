"""Every alert fires when it should and is silent when it should be, as Prometheus itself judges the rendered rules."""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import ROOT, merged, profile, render
from tidegate.telemetry.names import METRICS

REQUESTS = 'tidegate_requests_total{model="m",path="/v1/chat/completions",outcome="%s"}'
FIRST = 'gen_ai_server_time_to_first_token_seconds_%s{model="m"%s}'
RUNBOOKS = ROOT / "docs" / "operations" / "runbooks"


@dataclass(frozen=True)
class Case:
    """Series as promtool writes them (a value per `step`), when to look, and the labels of the alert then."""

    firing: dict[str, str]
    silent: dict[str, str]
    at: str
    labels: dict[str, str] = field(default_factory=dict)
    step: str = "1m"


def failing(steps: int, share: float) -> dict[str, str]:
    """A hundred requests a step, of which the platform fails a share; callers who leave are no failure of ours."""
    bad = round(100 * share, 2)
    return {
        REQUESTS % "ok": f"0+{100 - bad}x{steps}",
        REQUESTS % "upstream_error": f"0+{bad}x{steps}",
        REQUESTS % "cancelled": f"0+50x{steps}",
    }


def late(steps: int, share: float) -> dict[str, str]:
    """The same, for first tokens after five seconds."""
    early = round(100 * (1 - share), 2)
    return {
        FIRST % ("bucket", ',le="5.0"'): f"0+{early}x{steps}",
        FIRST % ("bucket", ',le="+Inf"'): f"0+100x{steps}",
        FIRST % ("count", ""): f"0+100x{steps}",
        REQUESTS % "ok": f"0+100x{steps}",
    }


def unusual(metric: str, calm: str = "0x30", upset: str = "0x5 1+1x25") -> tuple[dict[str, str], dict[str, str]]:
    return {metric: upset}, {metric: calm}


EJECTIONS = 'tidegate_replica_ejections_total{replica="http://10.0.0.7:8000"}'
REFUSED_TOKENS = 'tidegate_internal_tokens_refused_total{reason="signature"}'
CERTIFICATE = 'tidegate_certificate_expires_timestamp_seconds{replica="https://vllm:8000"}'
WAITING = 'tidegate_waiting_requests{model="m"}'
AWAY = 'tidegate_limit_store_away{pod="%s"}'
DAY = 86_400
CASES = {
    "TidegateFailuresFastBurn": Case(failing(90, 0.08), failing(90, 0.05), "80m"),
    "TidegateFailuresSteadyBurn": Case(failing(500, 0.04), failing(500, 0.02), "480m"),
    "TidegateFailuresSlowBurn": Case(failing(500, 0.007), failing(500, 0.003), "4900m", step="10m"),
    "TidegateFirstTokenFastBurn": Case(late(90, 0.75), late(90, 0.6), "80m"),
    "TidegateFirstTokenSteadyBurn": Case(late(500, 0.35), late(500, 0.2), "480m"),
    "TidegateFirstTokenSlowBurn": Case(late(500, 0.07), late(500, 0.03), "4900m", step="10m"),
    "TidegateGatewayDown": Case({}, {"tidegate_inflight_requests": "0x30"}, "20m"),
    "TidegateReplicaEjected": Case(
        {EJECTIONS: "_x10 1x20"}, {EJECTIONS: "1x30"}, "14m", {"replica": "http://10.0.0.7:8000"}
    ),
    "TidegateModelQueueing": Case({WAITING: "40x30"}, {WAITING: "40x5 0x25"}, "20m", {"model": "m"}),
    "TidegateOverloaded": Case(*unusual('tidegate_refusals_total{code="overloaded"}'), "20m"),
    "TidegateJournalNotShipping": Case(
        {"tidegate_journal_ship_errors_total": "0+1x30", "tidegate_journal_unshipped_bytes": "900x30"},
        {"tidegate_journal_ship_errors_total": "0+1x30", "tidegate_journal_unshipped_bytes": "0x30"},
        "25m",
    ),
    "TidegateDatabaseAway": Case(*unusual("tidegate_snapshot_errors_total", calm="0x10 1x20"), "20m"),
    "TidegateLimitStoreAway": Case(
        {AWAY % "a": "0x30", AWAY % "b": "0x5 1x25"}, {AWAY % "a": "0x5 1x1 0x23", AWAY % "b": "0x30"}, "10m"
    ),
    "TidegateCertificateExpiring": Case(
        {CERTIFICATE: f"{13 * DAY}x30"}, {CERTIFICATE: f"{15 * DAY}x30"}, "5m", {"replica": "https://vllm:8000"}
    ),
    "TidegateWorkersLost": Case(
        {"tidegate_workers_lost_total": "0x5 1x25"}, {"tidegate_workers_lost_total": "1x30"}, "12m"
    ),
    "TidegateInternalTokensRefused": Case({REFUSED_TOKENS: "_x10 1x20"}, {REFUSED_TOKENS: "3x30"}, "15m"),
}


def groups(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    (rule,) = [d for d in render(values or profile("small")) if d["kind"] == "PrometheusRule"]
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cases_and_its_page() -> None:
    assert set(CASES) == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert (RUNBOOKS / Path(rule["annotations"]["runbook_url"]).name).exists(), name
    used = {Path(rule["annotations"]["runbook_url"]).name for rule in ALERTS.values()}
    assert {path.name for path in RUNBOOKS.glob("*.md")} == used


def test_every_rule_reads_what_is_emitted() -> None:
    emitted = {metric.name + {"counter": "_total"}.get(metric.kind, "") for metric in METRICS}
    emitted |= {
        f"{metric.name}_{part}" for metric in METRICS if metric.kind == "histogram" for part in ("bucket", "count")
    }
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        named = set(re.findall(r"\b(?:tidegate|gen_ai)[a-z0-9_:]*", rule["expr"]))
        assert named and named <= emitted | recorded, rule["expr"]


def test_the_late_first_token_is_a_bound_of_the_histogram() -> None:
    (ttft,) = [metric for metric in METRICS if metric.name == "gen_ai_server_time_to_first_token_seconds"]
    schema = json.loads((ROOT / "deploy/openshift/chart/values.schema.json").read_text())
    allowed = schema["properties"]["monitoring"]["properties"]["slo"]["properties"]["firstTokenSeconds"]["enum"]
    assert set(allowed) <= set(ttft.buckets)
    for bound in allowed:
        found = json.dumps(groups(merged(profile("small"), {"monitoring": {"slo": {"firstTokenSeconds": bound}}})))
        assert f'le=\\"{float(bound)}\\"' in found, "as prometheus-client writes it"


@pytest.mark.services
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    promtool(tmp_path, "check", "rules", "--lint-fatal", "rules.yaml")


@pytest.mark.services
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_and_is_silent(name: str, tmp_path: Path) -> None:
    case, rule = CASES[name], ALERTS[name]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    alert = {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": rule["annotations"]}
    tests = [
        {
            "interval": case.step,
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": expected}],
        }
        for given, expected in ((case.firing, [alert]), (case.silent, []))
    ]
    # Below the five minutes for which a value counts as the present one: groups are evaluated in no order.
    pace = "1m" if case.step == "1m" else "4m"
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": pace, "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    promtool(tmp_path, "test", "rules", "tests.yaml")
