"""The process above several workers: the listening socket, the management port, the shared tables, the journals' way out.

It relays nothing. SIGHUP makes it read the configuration again and replace its workers one generation by the next, on the
same socket: nobody is refused, and streams end where they began. SIGTERM is passed on; see `tidegate.serving.run`.
"""

import asyncio
import os
import shutil
import signal
from pathlib import Path

from gateway.ledger.shipper import Shipper, recover_all, recover_one
from gateway.limits.shared import SharedLimits, create
from gateway.place import journal_of
from gateway.workers.crew import Crew, Gifts
from tidegate.config.load import load
from tidegate.config.settings import Settings
from tidegate.errors import ConfigError, OperatorError
from tidegate.serving.capacity import MANAGEMENT_CONNECTIONS
from tidegate.serving.http import management
from tidegate.serving.run import Door, Signals, listen
from tidegate.serving.server import Server, asgi
from tidegate.store.database import Database
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics, SharedPlace

_LAST_WORDS_S = 20.0


async def supervise(settings: Settings, log: JsonLog, config: Path) -> None:
    """Runs as many workers as `settings.gateway.workers` says, until SIGTERM or SIGINT.

    Raises:
        OperatorError: limits are not shared, a port is taken, the database is missing, or the workers do not start.
    """
    check(settings)
    directory = settings.journal.directory
    place = SharedPlace(_emptied(directory / "metrics"), "supervisor")
    metrics, table = Metrics(place), create()
    database = Database(settings.store)
    shipper = Shipper(directory, database, settings.journal, metrics, log)
    options = settings.gateway
    listener = listen(Door("gateway.port", options.host, options.port))
    other = listen(Door("gateway.management_port", options.management_host, options.management_port))
    limits = SharedLimits(table, 0)

    def bury(slot: int) -> None:
        limits.forget(slot)
        place.bury(str(slot))
        recover_one(journal_of(directory, slot), settings.journal.segment_bytes, log)

    crew = Crew(
        Gifts(config, listener.fileno(), table, place.folder),
        bury,
        lambda: metrics.count(names.WORKERS_LOST),
        log,
    )
    metrics.watch(names.WORKERS, lambda: {(): crew.ready})
    watch = _Watch(crew, config, settings, log)
    try:
        await database.require_current()
        await asyncio.to_thread(recover_all, directory, settings.journal.segment_bytes, log)
        probes = Server(
            asgi(management(watch.not_ready, metrics)),
            log,
            keep_alive_s=options.keep_alive_s,
            max_connections=MANAGEMENT_CONNECTIONS,
        )
        await probes.listen(other)
        shipping = asyncio.ensure_future(shipper.run())
        try:
            await crew.start(options.workers)
            log.write("info", "serving", public=f"{options.host}:{options.port}", workers=options.workers)
            await watch.until_stopped()
            listener.close()
            await watch.stop_crew()
        finally:
            await crew.stop(0)
            shipping.cancel()
            await asyncio.gather(shipping, return_exceptions=True)
            await shipper.ship_rest()
            await probes.close()
        log.write("info", "stopped")
    finally:
        await database.close()
        os.close(table)


def check(settings: Settings) -> None:
    """Refuses several workers that would each allow a whole limit.

    Raises:
        ConfigError: limits are not shared.
    """
    if settings.limits.store == "process":
        raise ConfigError(
            f"gateway.workers is {settings.gateway.workers}, but limits.store is 'process': each worker would allow a "
            "project its whole limit. Set limits.store to 'shared' or 'redis', or gateway.workers to 1."
        )


class _Watch:
    """What signals bring about."""

    def __init__(self, crew: Crew, config: Path, settings: Settings, log: JsonLog) -> None:
        self._crew = crew
        self._config = config
        self._settings = settings
        self._log = log
        self._stopping = False
        self._signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def not_ready(self) -> str | None:
        """Why no request should be sent here; None if all is well."""
        if self._stopping:
            return "stopping"
        return None if self._crew.ready else "no worker is ready"

    async def until_stopped(self) -> None:
        """Until SIGTERM or SIGINT; replaces the workers at every SIGHUP."""
        while await self._signals.next() == signal.SIGHUP:
            try:
                await self._reload()
            except OperatorError as error:
                self._log.write("error", "not_reloaded", reason=error.message)
        self._stopping = True

    async def stop_crew(self) -> None:
        """Passes the signal on, and the next one."""
        options = self._settings.gateway
        patience_s = options.drain_delay_s + options.shutdown_grace_s + _LAST_WORDS_S
        stopping = asyncio.ensure_future(self._crew.stop(patience_s))
        hurry = asyncio.ensure_future(self._signals.next())
        await asyncio.wait((stopping, hurry), return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():
            self._crew.hurry()
        hurry.cancel()
        await stopping

    async def _reload(self) -> None:
        settings = load(self._config).document.settings
        check(settings)
        before, after = self._settings, settings
        fixed = ("host", "port", "management_host", "management_port")
        changed = [name for name in fixed if getattr(before.gateway, name) != getattr(after.gateway, name)]
        if changed or before.journal != after.journal or before.store != after.store:
            raise ConfigError("addresses, ports, the journal and the store can only be changed by a restart")
        await self._crew.replace(settings.gateway.workers)
        self._settings = settings
        self._log.write("info", "reloaded", workers=settings.gateway.workers)


def _emptied(folder: Path) -> Path:
    """The folder for metrics: what an earlier supervisor's workers counted is over."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise OperatorError(f"{folder}: {error.strerror}") from error
    return folder
