"""The real thing for the live tier: a vLLM of the tests' own and `tidegate up` in front of it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.stand import Process, free_port, wait_until
from tidegate.local.stack import Running

ROOT = Path(__file__).parents[2]


class Site:
    """A configuration with free ports and a folder of its own for all state; the checkout's model environment is shared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway_port, self.management_port, self.vllm_port, self.otlp_port = (free_port() for _ in range(4))
        document = yaml.safe_load((ROOT / "tidegate.yaml").read_text())
        document["settings"]["gateway"] |= {"port": self.gateway_port, "management_port": self.management_port}
        document["settings"]["store"]["url"] = f"sqlite+aiosqlite:///{folder}/tidegate.db"
        document["settings"]["journal"]["directory"] = str(folder / "journal")
        document["settings"]["auth"]["key_pepper_file"] = str(folder / "pepper")
        document["settings"]["identity"] = {
            "signing_key_file": str(folder / "private.json"),
            "public_keys_file": str(folder / "public.json"),
        }
        self.knowledge_port, self.knowledge_management_port = free_port(), free_port()
        knowledge_url = f"http://127.0.0.1:{self.knowledge_port}"
        document["settings"]["knowledge"] |= {
            "url": knowledge_url,
            "port": self.knowledge_port,
            "management_port": self.knowledge_management_port,
            "directory": str(folder / "knowledge"),
        }
        document["resources"]["models"][1]["replicas"][0]["url"] = knowledge_url
        self.agents_port, self.agents_management_port = free_port(), free_port()
        document["settings"]["agents"] |= {
            "url": f"http://127.0.0.1:{self.agents_port}",
            "port": self.agents_port,
            "management_port": self.agents_management_port,
        }
        self.tool_ports = [free_port() for _ in document["resources"]["mcp_servers"]]
        for server, port in zip(document["resources"]["mcp_servers"], self.tool_ports, strict=True):
            server["url"] = f"http://127.0.0.1:{port}"
        document["settings"]["telemetry"]["sinks"][0]["endpoint"] = f"http://127.0.0.1:{self.otlp_port}/v1/traces"
        document["resources"]["models"][0]["replicas"][0]["url"] = f"http://127.0.0.1:{self.vllm_port}"
        self.config = folder / "tidegate.yaml"
        self.config.write_text(yaml.safe_dump(document))
        self.running_file = folder / "up.json"
        self.env = {"TIDEGATE_UP_FILE": str(self.running_file), "TIDEGATE_CONFIG": str(self.config)}


class Up(Site):
    """`tidegate up`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.process = Process([sys.executable, "-m", "tidegate.cli", "up"], folder / "up.log", self.env)

    def wait(self) -> Running:
        """Until everything is up: minutes if the model environment has to be made."""

        def ready() -> bool:
            assert self.process.popen.poll() is None, self.process.text()
            return "Ctrl-C stops everything" in self.process.text()

        wait_until(ready, 600, "tidegate up")
        return Running.read(self.running_file)

    def environ(self, running: Running) -> dict[str, str]:
        """For a journey or a client."""
        return {**os.environ, **running.environ(), **self.env}

    def cli(self, running: Running, *arguments: str) -> str:
        """What `tidegate …` prints."""
        done = self.run(running, sys.executable, "-m", "tidegate.cli", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def run(self, running: Running, *argv: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        """A command against the running stack."""
        return subprocess.run(
            argv, env=self.environ(running), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
        )
