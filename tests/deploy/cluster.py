"""What the chart renders, and a plan of what to start of it; see `container.py`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.deploy.charts import ROOT, merged, pod_of, profile, render
from tests.stand import COMPILED
from tidegate.identity import make_keys

VALUES: dict[str, Any] = {
    "settings": {"telemetry": {"sinks": []}},
    "gateway": {"drainDelaySeconds": 1, "shutdownGraceSeconds": 5},
    "resources": {
        "policies": [{"name": "default", "guardrails": [{"type": "pan"}]}],
        "organisations": [{"name": "acme", "projects": [{"name": "demo", "all_models": True}]}],
    },
}
REDIS_PASSWORD = "open sesame"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"


def image() -> dict[str, Any]:
    """The environment that the images set, with this checkout's packages in the place of theirs."""
    text = (ROOT / "deploy" / "openshift" / "Containerfile").read_text()
    (block,) = re.findall(r"^ENV (.*?[^\\])$", text, re.MULTILINE | re.DOTALL)
    env = dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())
    assert env["PATH"].startswith("/opt/tidegate/bin:")
    paths = [sys.prefix, os.path.realpath(sys.base_prefix), str(COMPILED)]
    return {"env": env | {"PATH": PATH, "PYTHONPATH": str(COMPILED)}, "paths": paths}


class Cluster:
    """What the chart renders, and a plan of what to start of it."""

    def __init__(self, folder: Path, name: str, more: dict[str, Any]) -> None:
        self.folder = folder
        self.rendered = render(merged(profile(name), merged(VALUES, more)))
        make_keys(folder / "private.json", folder / "public.json")
        keys = {f"identity_{name}.json": (folder / f"{name}.json").read_text() for name in ("private", "public")}
        files = {d["metadata"]["name"]: d["data"] for d in self.rendered if d["kind"] == "ConfigMap"}
        files |= {"tidegate-keys": {"key_pepper": "p" * 32, **keys}, "tidegate-database": {"password": "none"}}
        files |= {"tidegate-redis": {"password": REDIS_PASSWORD}}
        services = [d["metadata"]["name"] for d in self.rendered if d["kind"] == "Service"]
        self.plan: dict[str, Any] = {
            "image": image(),
            "files": files,
            "hosts": [*services, "postgres.example.internal", "redis.example.internal"],
            "database_port": 5432,
            "steps": [],
        }

    def pod(self, component: str) -> dict[str, Any]:
        """As it is rendered."""
        (pod,) = [
            pod
            for document in self.rendered
            if document["metadata"]["labels"]["app.kubernetes.io/component"] == component and (pod := pod_of(document))
        ]
        return pod

    def then(self, component: str, **step: Any) -> None:
        """The component's pod is started next."""
        self.plan["steps"].append({"pod": self.pod(component), **step})

    def run(self, timeout_s: float = 170) -> list[dict[str, Any]]:
        """What happened in each step; it ends at the first that fails."""
        argv = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.deploy.container", str(self.folder)]
        done = subprocess.run(
            argv, input=json.dumps(self.plan), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def served_well(found: dict[str, Any]) -> None:
    """Every probe answered, and SIGTERM ended it in good order."""
    assert found["probes"] == {"startupProbe": 200, "readinessProbe": 200, "livenessProbe": 200}, found["log"]
    assert found["exit_code"] == 0, found["log"]
    assert '"defect"' not in found["log"] and "Traceback" not in found["log"], found["log"]
