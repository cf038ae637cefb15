"""Model servers behind one host name: each of its addresses is a replica of its own, looked up again and again."""

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from tidegate.config.resources import Replica
from tidegate.telemetry.logs import JsonLog

_PATIENCE_S = 3.0
_MOST_ADDRESSES = 256


class Discovery:
    """What names were last looked up to. It stays in force while no name server answers, and while there is no address:
    a replica that has gone is noticed by who sends to it.
    """

    def __init__(self, log: JsonLog) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.found: Mapping[str, tuple[str, ...]] = {}
        """Host name to addresses; replaced, never changed."""
        self._failing: set[str] = set()
        self._lookups: dict[str, asyncio.Task[None]] = {}

    def addresses_of(self, replica: Replica) -> Sequence[str | None]:
        """Where its connections go; None stands for its name."""
        return (None,) if replica.discovery is None else self.found.get(_host(replica), ())

    async def look(self, replicas: Iterable[Replica]) -> None:
        """Looks up what is to be discovered, for 3 s at most; what takes longer is found later."""
        hosts = {_host(replica) for replica in replicas if replica.discovery is not None}
        for host in hosts - self._lookups.keys():  # one that still waits for a name server is not asked twice
            self._lookups[host] = self._loop.create_task(self._look_up(host))
        if hosts:
            await asyncio.wait([self._lookups[host] for host in hosts], timeout=_PATIENCE_S)

    async def _look_up(self, host: str) -> None:
        try:
            found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # the latter where it cannot be a host's name at all
            if host not in self._failing:
                self._failing.add(host)
                self._log.write("warning", "replicas_not_found", host=host, reason=str(error))
            return
        finally:
            del self._lookups[host]
        self._failing.discard(host)
        addresses = tuple(sorted({str(item[4][0]) for item in found})[:_MOST_ADDRESSES])
        if addresses != self.found.get(host):
            self.found = {**self.found, host: addresses}
            self._log.write("info", "replicas_found", host=host, count=len(addresses))

    def close(self) -> None:
        """Waits for nothing any more."""
        for lookup in list(self._lookups.values()):
            lookup.cancel()


def _host(replica: Replica) -> str:
    return urlsplit(replica.url).hostname or ""
