"""The chart's model pod is a real vLLM, started as its manifest says and confined as restricted-v2 confines it."""

import json
import re
from pathlib import Path

import pytest

from tests.deploy.cluster import Cluster
from tests.deploy.test_dashboards import QUERIES, metrics_of
from tests.live.stack import ROOT
from tidegate.local.model_server import ModelServer
from tidegate.local.stack import Running

pytestmark = pytest.mark.live


def test_vllm_starts_answers_and_stops(running: Running, tmp_path: Path) -> None:
    server = ModelServer(ROOT, ROOT / ".tidegate", None)
    for folder in (
        server.model_folder.parent,
        server.model_folder,
    ):  # as whoever fills a volume must, for the pod is another user
        folder.chmod(0o755)
    for file in server.model_folder.iterdir():
        file.chmod(0o644)
    cpu = ["--max-model-len=2048", "--max-num-seqs=8", "--enforce-eager"]
    model = {"name": "smollm2", "source": f"/models/{server.model_folder.name}", "claim": "models", "args": cpu}
    site = Cluster(tmp_path, "small", {"models": [model], "vllm": {"shutdownGraceSeconds": 5}})
    del site.plan["database_port"]
    programs = ROOT / ".venv-vllm"
    on_cpu = {name: value for name, value in server.environ().items() if name.startswith(("VLLM_CPU", "VLLM_TARGET"))}
    site.plan["image"]["env"] = {"PATH": f"{programs}/bin:/usr/bin:/bin", **on_cpu}
    site.plan["image"]["paths"].append(str(programs))
    site.plan["claims"] = {"models": str(server.model_folder.parent)}
    chat = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    asked = {"port": "http", "path": "/v1/chat/completions", "json": chat}
    site.then("model-smollm2", requests=[asked, {"port": "http", "path": "/metrics"}])
    (found,) = site.run(timeout_s=380)
    assert set(found["probes"].values()) == {200} and found["exit_code"] == 0, found["log"]
    (status, body), (_, metrics) = found["answers"]
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 3, body
    shown = {line.split()[2] for line in metrics.splitlines() if line.startswith("# TYPE ")}
    asked = {name for _, query in QUERIES for name in metrics_of(query) if name.startswith("vllm:")}
    assert len(asked) > 8
    assert {re.sub(r"_(total|bucket)$", "", name) for name in asked} <= {re.sub("_total$", "", name) for name in shown}
