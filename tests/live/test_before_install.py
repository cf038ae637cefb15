"""`tidegate preflight` of the version of vLLM that is served here."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.deploy.charts import profile, render
from tests.live.stack import ROOT, Up
from tidegate.cli import app
from tidegate.config.load import Document
from tidegate.local.model_server import ModelServer
from tidegate.local.stack import Running
from tidegate.preflight.plan import Plan
from tidegate.preflight.services import look
from tidegate.preflight.vllm import flags

pytestmark = pytest.mark.live


def test_vllm_knows_its_options_and_serves_its_model(up: Up, running: Running, tmp_path: Path) -> None:
    server = ModelServer(ROOT, ROOT / ".tidegate", None)
    argv = [ROOT / ".venv-vllm" / "bin" / "vllm", "serve", "--help=all"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=server.environ(), check=True)
    plan = Plan.read(yaml.safe_dump_all(render(profile("ha"))))
    found = flags(plan.vllm_flags, done.stdout)
    assert found.status == "ok", found
    assert flags(plan.vllm_flags | {"--no-such-option"}, done.stdout).status == "failed"
    models = [
        {"name": "chat", "upstream_model": running.model, "replicas": [{"url": f"http://127.0.0.1:{up.vllm_port}"}]}
    ]
    store = {"url": f"sqlite+aiosqlite:///{tmp_path}/test.db"}
    document = Document.model_validate({"settings": {"store": store}, "resources": {"models": models}})
    said = {each.check: each for each in look(document, plan.services, plan.vllm_metrics)}
    assert said["model-servers"].status == "ok" and said["vllm-metrics"].status == "ok", said


def test_the_running_stacks_own_configuration_passes(up: Up, running: Running) -> None:
    done = CliRunner().invoke(app, ["preflight", "--config", str(up.config), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["passed"], done.stdout
