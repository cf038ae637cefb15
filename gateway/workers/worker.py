"""One worker: a gateway that listens on an inherited socket and tells its supervisor how far it is.

It prints `ready` once it has resources and `serving` once it accepts connections, on standard output; in this order, unless
none have been applied yet.
"""

import asyncio
import os
import socket

from gateway.app import build
from gateway.front import Gateway
from gateway.place import Place
from tidegate.config.settings import Settings
from tidegate.errors import OperatorError
from tidegate.serving.capacity import connection_limit
from tidegate.serving.children import die_with_parent
from tidegate.serving.run import serve_until_told
from tidegate.serving.server import Server
from tidegate.telemetry.logs import JsonLog

_LOOK_EVERY_S = 0.1


async def work(settings: Settings, log: JsonLog, place: Place) -> None:
    """Serves until it is told to stop.

    Raises:
        OperatorError: see `build`; or the supervisor has gone already.
    """
    die_with_parent()
    if os.getppid() != place.supervisor:
        raise OperatorError("the supervisor has gone")
    async with build(settings, log, place) as (gateway, _):
        most = connection_limit(settings.gateway.max_connections)
        server = Server(gateway, log, keep_alive_s=settings.gateway.keep_alive_s, max_connections=most)
        await server.listen(socket.socket(fileno=place.listener))
        telling = asyncio.create_task(_tell_when_ready(gateway))
        await asyncio.sleep(0)  # it looks once before the supervisor hears that it may dismiss a predecessor
        _tell("serving")
        await serve_until_told(server, gateway, settings.gateway, log)
        telling.cancel()


async def _tell_when_ready(gateway: Gateway) -> None:
    while gateway.not_ready() is not None:  # noqa: ASYNC110 - until resources are applied, once in a life
        await asyncio.sleep(_LOOK_EVERY_S)
    _tell("ready")


def _tell(what: str) -> None:
    os.write(1, what.encode() + b"\n")
