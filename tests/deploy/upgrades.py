"""What Kubernetes lets nobody change once it is there; `python -m tests.deploy.upgrades` records it when a chart is released."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.charts import CHART, PROFILES, profile, render

RELEASED = Path(__file__).parent / "released.json"
"""Version of the chart, profile, object: what may not change."""
_FIXED = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "Service": ("clusterIP",),
}


def fixed(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """By kind and name; what Helm makes anew for each release is left out."""
    found: dict[str, Any] = {}
    for document in objects:
        kind, name = document["kind"], document["metadata"]["name"]
        if "helm.sh/hook" in document["metadata"].get("annotations", {}):
            continue
        if kind in _FIXED:
            found[f"{kind}/{name}"] = {field: document["spec"].get(field) for field in _FIXED[kind]}
        elif kind == "RoleBinding":
            found[f"{kind}/{name}"] = document["roleRef"]
        elif kind == "Secret":
            found[f"{kind}/{name}"] = document["type"]
    return found


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What an upgrade would fail at, or would leave behind."""
    gone = [f"{name} is gone" for name in before.keys() - now.keys() if name.startswith("StatefulSet")]
    other = [f"{name} cannot become {now[name]}" for name in before.keys() & now.keys() if before[name] != now[name]]
    return sorted(gone + other)


def main() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    every = json.loads(RELEASED.read_text()) if RELEASED.exists() else {}
    every[version] = {name: fixed(render(profile(name))) for name in PROFILES}
    RELEASED.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
