"""Which of the limits it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.limits.interface import ProjectLimits
from gateway.limits.memory import MemoryLimits
from gateway.limits.shared import SharedLimits
from gateway.place import Place
from tidegate.config.settings import LimitsSettings
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics


@asynccontextmanager
async def open_limits(
    settings: LimitsSettings, place: Place | None, metrics: Metrics, log: JsonLog
) -> AsyncIterator[ProjectLimits]:
    """Where `settings.store` says; a worker with a `place` shares its supervisor's table.

    Raises:
        OperatorError: the store refuses us.
    """
    if settings.store != "redis":
        yield MemoryLimits() if place is None else SharedLimits(place.limits, place.slot)
        return
    from gateway.limits.redis import RedisLimits  # its client takes 13 MB, which nobody else should have

    limits = RedisLimits(settings, metrics, log)
    async with limits.running():
        yield limits
