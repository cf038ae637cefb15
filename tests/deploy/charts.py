"""The chart, rendered by Helm's own engine."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "openshift" / "chart"
PROFILES = ("dev", "small", "ha", "airgap")
NEEDED: dict[str, Any] = {
    "images": {
        name: {"digest": f"sha256:{number:064x}"}
        for number, name in enumerate(("gateway", "knowledge", "agents", "mcp", "vllm"), 1)
    },
    "database": {"url": "postgresql+asyncpg://tidegate@postgres.example.internal:5432/tidegate"},
    "route": {"host": "llm.example.internal"},
}
"""What has no default."""
ELSEWHERE = (
    "route.openshift.io",
    "monitoring.coreos.com",
    "external-secrets.io",
    "gateway.networking.k8s.io",
    "keda.sh",
)
"""API groups that are not Kubernetes's own."""


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`values` with `more` on top, as Helm merges files."""
    out = dict(values)
    for key, value in more.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def profile(name: str) -> dict[str, Any]:
    """The values of a profile and what is needed besides."""
    return merged(NEEDED, yaml.safe_load((CHART / f"values-{name}.yaml").read_text()))


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object, in Helm's order of files."""
    found: list[dict[str, Any]] = json.loads(_rendered(json.dumps(values, sort_keys=True)))
    return found


@cache
def _rendered(values: str) -> str:
    with Chart.load(str(CHART)) as chart:
        files = chart.render(json.loads(values), name="tidegate", namespace="llm")
    texts = [yaml.load_all(text, yaml.CSafeLoader) for _, text in sorted(files.items())]
    return json.dumps([document for documents in texts for document in documents if document])


def configurations(values: dict[str, Any]) -> dict[str, str]:
    """Every tidegate.yaml, by its ConfigMap's name."""
    found = {d["metadata"]["name"]: d["data"] for d in render(values) if d["kind"] == "ConfigMap"}
    return {name: data["tidegate.yaml"] for name, data in found.items() if "tidegate.yaml" in data}


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The pod's specification, where there is one."""
    pod: dict[str, Any] | None = document.get("spec", {}).get("template", {}).get("spec")
    return pod if document["kind"] in ("Deployment", "StatefulSet", "Job") else None
