"""Names: what is emitted is registered, what is registered is emitted, and all of it is documented."""

import re
from pathlib import Path

from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
CODE = {
    path: path.read_text()
    for room in ("gateway", "rag", "agents", "guardrails", "tidegate")
    for path in (ROOT / room).rglob("*.py")
    if path.name != "names.py"
}


def test_every_registered_name_is_used_and_no_other() -> None:
    used = set(re.findall(r"names\.([A-Z_]+)", "\n".join(CODE.values())))
    registered = {key for key, value in vars(names).items() if key.isupper() and isinstance(value, str | names.Metric)}
    assert used - {"METRICS"} == registered


def test_no_metric_or_attribute_is_written_as_a_literal() -> None:
    literals = [metric.name for metric in names.METRICS] + list(names.ATTRIBUTES)
    shown = ("traces.py",)  # reads what arrived
    found = [
        (path.name, name)
        for path, text in CODE.items()
        for name in literals
        if f'"{name}"' in text and path.name not in shown
    ]
    assert found == []


def test_every_name_is_documented() -> None:
    page = (ROOT / "docs" / "telemetry.md").read_text()
    missing = [metric.name for metric in names.METRICS if f"`{metric.name}`" not in page]
    missing += [name for name in (*names.ATTRIBUTES, *names.SPANS) if f"`{name}`" not in page]
    assert missing == []


def test_label_sets_are_bounded() -> None:
    metrics = Metrics()
    for number in range(10_050):
        metrics.count(names.REFUSALS, f"code{number}")
    assert metrics.render().count(b"tidegate_refusals_total{") <= 10_001
