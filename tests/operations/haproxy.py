"""HAProxy in front of gateways, configured as OpenShift's router is."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.stand import Gateway, Process, free_port, wait_until

_CONFIG = """
global
  maxconn 1000
  stats socket {folder}/admin.sock mode 600 level admin
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout http-request 10s
  timeout http-keep-alive 300s
  timeout server {timeout_server}
  timeout check 3s
  retries 3
{defaults}
frontend public
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  balance leastconn
  option httpchk GET /readyz
  http-check expect status 200
{servers}
"""


class Haproxy:
    """A running HAProxy that asks `/readyz` three times a second."""

    def __init__(
        self, folder: Path, gateways: Sequence[Gateway], *, timeout_server: str = "30s", options: str = ""
    ) -> None:
        self.port, self._folder = free_port(), folder
        servers = [
            f"server g{number} 127.0.0.1:{gateway.port} check port {gateway.management_port} inter 300ms fall 1 rise 1"
            for number, gateway in enumerate(gateways)
        ]
        config = folder / "haproxy.cfg"
        config.write_text(
            _CONFIG.format(
                folder=folder,
                port=self.port,
                timeout_server=timeout_server,
                defaults=f"  {options}",
                servers="\n".join(f"  {line}" for line in servers),
            )
        )
        self.process = Process(["haproxy", "-db", "-f", str(config)], folder / "haproxy.log")
        for number in range(len(gateways)):
            self.wait_up(number)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_up(self, number: int) -> None:
        """Until HAProxy sends requests to a gateway."""
        wait_until(lambda: self._status(f"g{number}") == "UP", 10, f"HAProxy to find gateway {number}")

    def _status(self, name: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(str(self._folder / "admin.sock"))
                admin.sendall(b"show stat\n")
                text = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        except OSError:
            return "not there"
        rows = [line.split(",") for line in text.lstrip("# ").splitlines()]
        status = rows[0].index("status")
        return next((row[status] for row in rows if row[:2] == ["gateways", name]), "unknown")


def version() -> str:
    """As it says itself."""
    return subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
