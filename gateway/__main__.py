"""`python -m gateway --config tidegate.yaml`: one gateway process, public and management port."""

import argparse
import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from gateway.app import Gateway, build
from tidegate.config.load import load
from tidegate.config.settings import Settings
from tidegate.errors import OperatorError
from tidegate.telemetry.logs import JsonLog

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Signals are handled once, for both servers, by `run`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description=(__doc__ or ""))
    parser.add_argument("--config", type=Path, default=Path("tidegate.yaml"))
    arguments = parser.parse_args()
    try:
        settings = load(arguments.config).document.settings
        log = JsonLog("gateway", settings.telemetry.log_level)
        log.adopt_standard_logging()
        uvloop.run(run(settings, log))
    except OperatorError as error:
        sys.exit(f"tidegate gateway cannot start: {error.message}")


async def run(settings: Settings, log: JsonLog) -> None:
    """Serves until SIGTERM or SIGINT, then lets running requests finish.

    Raises:
        OperatorError: something the gateway needs is missing or wrong.
    """
    async with build(settings, log) as (gateway, management):
        options = settings.gateway
        public_socket = _listen("gateway.port", options.host, options.port)
        management_socket = _listen("gateway.management_port", options.management_host, options.management_port)
        public_server, management_server = _server(gateway, settings), _server(management, settings)
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process; no collection need look at it again
        _stop_on_signal(gateway, public_server, management_server)
        log.write("info", "serving", public=f"{options.host}:{options.port}", management_port=options.management_port)
        management_task = asyncio.ensure_future(management_server.serve([management_socket]))
        await public_server.serve([public_socket])
        management_server.should_exit = True
        await management_task
        log.write("info", "stopped")


def _listen(setting: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OperatorError(f"{setting}: {host}:{port} cannot be listened on: {error.strerror}") from error


def _server(app: Any, settings: Settings) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.gateway.keep_alive_s,
            timeout_graceful_shutdown=settings.gateway.shutdown_grace_s,
        )
    )


def _stop_on_signal(gateway: Gateway, *servers: _Server) -> None:
    def stop() -> None:
        gateway.stopping = True
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


if __name__ == "__main__":
    main()
