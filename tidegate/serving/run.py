"""A service as a process: command line, settings, a public and a management port, until SIGTERM or SIGINT.

Stopping, step by step:

1. `/readyz` fails and answers say `connection: close`; everything is still served for `drain_delay_s`, since routers need
   time to notice.
2. New requests are refused with 503 and `retry-after`; the port stays open, for a refused connection tells a caller less.
   Requests under way have until `shutdown_grace_s` to finish.
3. What is left is cut: a stream gets a last event that says so.

A second signal cuts at once.
"""

import argparse
import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tidegate.config.load import load
from tidegate.config.settings import Settings, Stoppable
from tidegate.errors import OperatorError
from tidegate.serving.call import Call
from tidegate.serving.capacity import MANAGEMENT_CONNECTIONS, connection_limit
from tidegate.serving.server import Server, asgi
from tidegate.telemetry.logs import JsonLog

_BACKLOG = 2048
_SEND_BYTES = 131_072
_LAST_WORDS_S = 3.0


class Service(Protocol):
    """What answers on the public port, and can be told that the process will stop."""

    def __call__(self, call: Call) -> Coroutine[Any, Any, None]:
        """One request."""
        ...

    def stop(self) -> None:
        """From here on it reports that it is not ready."""


Build = Callable[[Settings, JsonLog], AbstractAsyncContextManager[tuple[Service, Any]]]
"""A composition root: everything a service needs, running; the service and its management application."""


def main(name: Literal["knowledge", "agents"], about: str, build: Build) -> None:
    """The command line of the service that `settings.<name>` configures."""
    arguments = command_line(about).parse_args()
    start(name, arguments.config, lambda settings, log: serve_built(name, build, settings, log), asyncio.run)


def command_line(about: str) -> argparse.ArgumentParser:
    """What every service's command line has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--config", type=Path, default=Path("tidegate.yaml"))
    return parser


def start(
    name: str,
    config: Path,
    serve: Callable[[Settings, JsonLog], Coroutine[Any, Any, None]],
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """Reads the configuration and runs what `serve` makes of it; an operator's mistake is told, not shown as a traceback."""
    try:
        settings = load(config).document.settings
        log = JsonLog(name, settings.telemetry.log_level)
        log.adopt_standard_logging()
        run(serve(settings, log))
    except OperatorError as error:
        sys.exit(f"tidegate {name} cannot start: {error.message}")


async def serve_built(
    name: Literal["gateway", "knowledge", "agents"], build: Build, settings: Settings, log: JsonLog
) -> None:
    """Serves both ports of a service until a signal."""
    options = getattr(settings, name)
    async with build(settings, log) as (service, management):
        public = Door(f"{name}.port", options.host, options.port)
        probes = Door(f"{name}.management_port", options.management_host, options.management_port)
        listeners = [listen(door) for door in (public, probes)]
        keep_alive_s = settings.gateway.keep_alive_s
        most = connection_limit(settings.gateway.max_connections)
        server = Server(service, log, keep_alive_s=keep_alive_s, max_connections=most)
        other = Server(asgi(management), log, keep_alive_s=keep_alive_s, max_connections=MANAGEMENT_CONNECTIONS)
        await server.listen(listeners[0])
        await other.listen(listeners[1])
        log.write("info", "serving", public=f"{public.host}:{public.port}", management_port=probes.port)
        await serve_until_told(server, service, options, log)
        await other.close()
        log.write("info", "stopped")


@dataclass(frozen=True, slots=True)
class Door:
    """Where to listen; `setting` is the name of the port's setting, for error messages."""

    setting: str
    host: str
    port: int


class Signals:
    """These signals, in the order in which they come, in place of what they would do."""

    def __init__(self, *numbers: int) -> None:
        self._came: asyncio.Queue[int] = asyncio.Queue()
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, self._came.put_nowait, number)

    async def next(self) -> int:
        """Waits for the next one."""
        return await self._came.get()


async def serve_until_told(server: Server, service: Service, patience: Stoppable, log: JsonLog) -> None:
    """Lets `server`, which listens, serve until a signal, then stops it as the module says.

    By SIGUSR1 a supervisor says that another process listens now: then nothing is refused. No new connections are taken, and
    those that there are end with their next answer, or when they have been quiet for a moment.
    """
    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process; no collection need look at it again
    signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    with log.gathered():
        replaced = await signals.next() == signal.SIGUSR1
        if replaced:
            server.stop_listening()
        await _drain(server, service, patience, signals, log, replaced=replaced)
        await server.close()


async def _drain(
    server: Server, service: Service, patience: Stoppable, signals: Signals, log: JsonLog, *, replaced: bool
) -> None:
    service.stop()
    server.closing = True
    log.write("info", "draining", requests=len(server.calls), delay_s=patience.drain_delay_s)
    hurry = asyncio.ensure_future(signals.next())
    await _unless(hurry, asyncio.sleep(patience.drain_delay_s))
    server.refusing = not replaced
    grace_s = patience.shutdown_grace_s
    await _unless(hurry, server.wait_until_quiet(grace_s, again=True) if replaced else server.wait_until_idle(grace_s))
    hurry.cancel()
    if server.calls:
        log.write("warning", "cut", requests=len(server.calls))
        server.cut(gently=True)
        if not await server.wait_until_idle(_LAST_WORDS_S):
            server.cut(gently=False)
            await server.wait_until_idle(_LAST_WORDS_S)


async def _unless(hurry: asyncio.Future[int], step: Coroutine[Any, Any, Any]) -> None:
    """`step`, unless there is a reason to hurry before it has ended."""
    task = asyncio.ensure_future(step)
    await asyncio.wait((task, hurry), return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def listen(door: Door) -> socket.socket:
    """A listening socket.

    Raises:
        OperatorError: the port cannot be listened on.
    """
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
