"""`python -m gateway --config tidegate.yaml`: the gateway, public and management port; one process, or several workers."""

import argparse
from collections.abc import Coroutine
from typing import Any

import uvloop

from gateway.app import build
from gateway.place import Place
from gateway.workers.supervisor import supervise
from gateway.workers.worker import work
from tidegate.config.settings import Settings
from tidegate.serving.run import command_line, serve_built, start
from tidegate.telemetry.logs import JsonLog


def main() -> None:
    """The command line."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--worker", type=Place.read, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    def serve(settings: Settings, log: JsonLog) -> Coroutine[Any, Any, None]:
        if arguments.worker is not None:
            return work(settings, log, arguments.worker)
        if settings.gateway.workers > 1:
            return supervise(settings, log, arguments.config)
        return serve_built("gateway", build, settings, log)

    start("gateway", arguments.config, serve, uvloop.run)


if __name__ == "__main__":
    main()
