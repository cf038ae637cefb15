"""What the chart renders is started as it says, confined as restricted-v2 confines it: probes, one chat, SIGTERM."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.charts import ROOT, merged, pod_of, profile, render
from tests.stand import COMPILED
from tidegate.identity import make_keys

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]
VALUES: dict[str, Any] = {
    "settings": {"telemetry": {"sinks": []}},
    "gateway": {"drainDelaySeconds": 1, "shutdownGraceSeconds": 5},
    "resources": {
        "policies": [{"name": "default", "guardrails": [{"type": "pan"}]}],
        "organisations": [{"name": "acme", "projects": [{"name": "demo", "all_models": True}]}],
    },
}
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
        services = [d["metadata"]["name"] for d in self.rendered if d["kind"] == "Service"]
        self.plan: dict[str, Any] = {
            "image": image(),
            "files": files,
            "hosts": [*services, "postgres.example.internal"],
            "database_port": 5432,
            "steps": [],
        }

    def pod(self, component: str) -> dict[str, Any]:
        (pod,) = [
            pod
            for document in self.rendered
            if document["metadata"]["labels"]["app.kubernetes.io/component"] == component and (pod := pod_of(document))
        ]
        return pod

    def then(self, component: str, **step: Any) -> None:
        self.plan["steps"].append({"pod": self.pod(component), **step})

    def run(self) -> list[dict[str, Any]]:
        argv = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.deploy.container", str(self.folder)]
        done = subprocess.run(argv, input=json.dumps(self.plan), capture_output=True, text=True, timeout=170, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def served_well(found: dict[str, Any]) -> None:
    assert found["probes"] == {"startupProbe": 200, "readinessProbe": 200, "livenessProbe": 200}, found["log"]
    assert found["exit_code"] == 0, found["log"]
    assert '"defect"' not in found["log"] and "Traceback" not in found["log"], found["log"]


@pytest.mark.parametrize("persistent", [False, True], ids=["Deployment", "StatefulSet"])
def test_the_gateway_starts_answers_and_stops(persistent: bool, tmp_path: Path) -> None:
    site = Cluster(tmp_path, "small", {"gateway": {"journal": {"persistent": persistent}}})
    config = "--config=/etc/tidegate/tidegate.yaml"
    make_key = ["tidegate", "keys", "create", "--organisation=acme", "--project=demo", "--name=test", config]
    chat = {"model": "llama-8b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    asked = {
        "port": "http",
        "path": "/v1/chat/completions",
        "json": chat,
        "headers": {"authorization": "Bearer {word}"},
    }
    site.plan["model_port"] = 8000
    site.then("migrations", to_end=True)
    site.then("gateway", to_end=True, command=make_key)
    site.then("gateway", requests=[asked, {"port": "management", "path": "/metrics"}])
    *before, gateway = site.run()
    assert [step["exit_code"] for step in before] == [0, 0], gateway["log"]
    served_well(gateway)
    (status, body), (_, metrics) = gateway["answers"]
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 2, body
    assert 'tidegate_requests_total{model="llama-8b",outcome="ok",path="/v1/chat/completions"} 1.0' in metrics


@pytest.mark.parametrize("component", ["knowledge", "agents", "mcp-calendar", "mcp-knowledge"])
def test_every_other_process_starts_and_stops(component: str, tmp_path: Path) -> None:
    site = Cluster(tmp_path, "small", {})
    site.then("migrations", to_end=True)
    site.then(component)
    *before, found = site.run()
    assert [step["exit_code"] for step in before] == [0], found["log"]
    served_well(found)


def test_what_is_written_where_no_volume_is_fails(tmp_path: Path) -> None:
    """The confinement is real: root is read-only, the user is nobody's, there is no way out, and no home."""
    site = Cluster(tmp_path, "small", {})
    del site.plan["database_port"]
    script = (
        "import os, socket; print(os.getuid(), os.getgid(), os.environ.get('HOME'), os.getpid())\n"
        "for path in ('/x', '/etc/tidegate/x', '/opt/x', os.path.dirname(os.__file__) + '/x'):\n"
        "    try: open(path, 'w'); print('wrote', path)\n"
        "    except OSError: pass\n"
        "open('/tmp/x', 'w'); print(open('/proc/self/status').read().split('CapBnd:')[1].split()[0])\n"
        "try: socket.create_connection(('192.0.2.1', 80), 1)\n"
        "except OSError as error: print(error.strerror)"
    )
    site.then("gateway", to_end=True, command=["python", "-c", script])
    (found,) = site.run()
    assert found["log"].splitlines() == ["1000770000 0 None 1", "0000000000000000", "Network is unreachable"]
