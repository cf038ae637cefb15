"""The real thing for the live tier: a vLLM of the tests' own and `tidegate up` in front of it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.stand import Process, free_port, wait_until
from tidegate.local.stack import Running

ROOT = Path(__file__).parents[2]


class Up:
    """`tidegate up` on free ports, sharing the checkout's model environment but not its state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway_port, self.management_port, self.vllm_port, self.otlp_port = (free_port() for _ in range(4))
        document = yaml.safe_load((ROOT / "tidegate.yaml").read_text())
        document["settings"]["gateway"] |= {"port": self.gateway_port, "management_port": self.management_port}
        document["settings"]["store"]["url"] = f"sqlite+aiosqlite:///{folder}/tidegate.db"
        document["settings"]["journal"]["directory"] = str(folder / "journal")
        document["settings"]["auth"]["key_pepper_file"] = str(folder / "pepper")
        document["settings"]["telemetry"]["sinks"][0]["endpoint"] = f"http://127.0.0.1:{self.otlp_port}/v1/traces"
        document["resources"]["models"][0]["replicas"][0]["url"] = f"http://127.0.0.1:{self.vllm_port}"
        self.config = folder / "tidegate.yaml"
        self.config.write_text(yaml.safe_dump(document))
        self.running_file = folder / "up.json"
        env = {"TIDEGATE_UP_FILE": str(self.running_file)}
        self.process = Process(
            [sys.executable, "-m", "tidegate.cli", "up", "--config", str(self.config)], folder / "up.log", env
        )

    def wait(self) -> Running:
        """Until everything is up: minutes if the model environment has to be made."""

        def ready() -> bool:
            assert self.process.popen.poll() is None, self.process.text()
            return "Ctrl-C stops everything" in self.process.text()

        wait_until(ready, 600, "tidegate up")
        return Running.read(self.running_file)

    def environ(self, running: Running) -> dict[str, str]:
        """For a journey or a client."""
        return {
            **os.environ,
            **running.environ(),
            "TIDEGATE_CONFIG": str(self.config),
            "TIDEGATE_UP_FILE": str(self.running_file),
        }

    def run(self, running: Running, *argv: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        """A command against the running stack."""
        return subprocess.run(
            argv, env=self.environ(running), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
        )
