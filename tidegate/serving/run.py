"""A service as a process: command line, settings, a public and a management port, until SIGTERM or SIGINT."""

import argparse
import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import uvicorn

from tidegate.config.load import load
from tidegate.config.settings import Settings
from tidegate.errors import OperatorError
from tidegate.serving.protocol import StrictHttp
from tidegate.telemetry.logs import JsonLog

_BACKLOG = 2048
_SEND_BYTES = 131_072


class Service(Protocol):
    """An ASGI application that can be told that it will stop."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""

    def stop(self) -> None:
        """From here on it reports that it is not ready."""


Build = Callable[[Settings, JsonLog], AbstractAsyncContextManager[tuple[Service, Any]]]
"""A composition root: everything a service needs, running; the service and its management application."""


def main(
    name: Literal["gateway", "knowledge", "agents"],
    about: str,
    build: Build,
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """The command line of the service that `settings.<name>` configures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--config", type=Path, default=Path("tidegate.yaml"))
    arguments = parser.parse_args()
    try:
        settings = load(arguments.config).document.settings
        log = JsonLog(name, settings.telemetry.log_level)
        log.adopt_standard_logging()
        run(_serve_built(name, build, settings, log))
    except OperatorError as error:
        sys.exit(f"tidegate {name} cannot start: {error.message}")


async def _serve_built(name: str, build: Build, settings: Settings, log: JsonLog) -> None:
    options = getattr(settings, name)
    async with build(settings, log) as (service, management):
        await serve(
            Door(service, f"{name}.port", options.host, options.port),
            Door(management, f"{name}.management_port", options.management_host, options.management_port),
            keep_alive_s=settings.gateway.keep_alive_s,
            grace_s=options.shutdown_grace_s,
            stopping=service.stop,
            log=log,
        )


@dataclass(frozen=True, slots=True)
class Door:
    """Where an application listens; `setting` is the name of the port's setting, for error messages."""

    app: Any
    setting: str
    host: str
    port: int


class _Server(uvicorn.Server):
    """Signals are handled once, for both servers, by `serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    public: Door,
    management: Door,
    *,
    keep_alive_s: int,
    grace_s: int,
    stopping: Callable[[], None],
    log: JsonLog,
) -> None:
    """Serves until a signal, calls `stopping`, then lets running requests finish for up to `grace_s`.

    Raises:
        OperatorError: a port cannot be listened on.
    """
    doors = (public, management)
    sockets = [_listen(door) for door in doors]
    public_server, management_server = (_server(door.app, keep_alive_s, grace_s) for door in doors)
    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process; no collection need look at it again

    def stop() -> None:
        stopping()
        public_server.should_exit = management_server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    log.write("info", "serving", public=f"{public.host}:{public.port}", management_port=management.port)
    management_task = asyncio.ensure_future(management_server.serve([sockets[1]]))
    await public_server.serve([sockets[0]])
    management_server.should_exit = True
    await management_task
    log.write("info", "stopped")


def _listen(door: Door) -> socket.socket:
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    try:
        listener = socket.create_server((door.host, door.port), family=family, backlog=_BACKLOG)
        # inherited by connections: asyncio does not set it where a socket was made like this, and heads would wait 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # inherited too: left alone, the kernel holds up to 4 MB for every reader who is slow
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        return listener
    except OSError as error:
        raise OperatorError(
            f"{door.setting}: {door.host}:{door.port} cannot be listened on: {error.strerror}"
        ) from error


def _server(app: Any, keep_alive_s: int, grace_s: int) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            loop="none",
            http=StrictHttp,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=grace_s,
        )
    )
