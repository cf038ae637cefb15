"""What one process holds of requests that it works on, shared by projects: how many, and the bytes of their bodies."""

from gateway.limits.interface import SERVICES, ProjectLimits
from tidegate.config.settings import Settings
from tidegate.serving.capacity import connection_limit
from tidegate.serving.shares import Shares
from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Principal

UNCOUNTED_BYTES = 16_384
"""Bodies up to this size are bounded by the number of requests alone."""
_PIECE_BYTES = 128
"""The least that a piece of a body takes in memory."""


class Room:
    """The gateway's; see `Shares` for how it is divided."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        largest = max(settings.gateway.max_body_bytes, settings.knowledge.max_file_bytes)
        connections = connection_limit(settings.gateway.max_connections)
        requests = min(settings.gateway.max_inflight_requests, max(1, connections * 3 // 4))  # and some for newcomers
        self._requests = Shares(requests, "requests at once")
        self._bytes = Shares(
            max(settings.gateway.max_buffered_bytes, 3 * largest), "bytes of requests that are held at once"
        )

        metrics.watch(names.BUFFERED, lambda: {(): self._bytes.total - self._bytes.free})

    def enter(self, principal: Principal) -> None:
        """Counts a request in; `leave` counts it out.

        Raises:
            Overloaded: the process is full.
            RateLimited: the project has its share.
        """
        self._requests.take((principal.organisation, principal.project))

    def leave(self, principal: Principal, held_bytes: int) -> None:
        """Counts a request out, and what it held."""
        project = (principal.organisation, principal.project)
        self._requests.give_back(project)
        if held_bytes:
            self._bytes.give_back(project, held_bytes)

    def check(self, principal: Principal, declared_bytes: int) -> None:
        """Whether a body of that size may come in. Nothing is taken for it: that would let slow clients hold what has not come.

        Raises:
            Overloaded, RateLimited: as `enter`.
        """
        if declared_bytes > UNCOUNTED_BYTES:
            self._bytes.check((principal.organisation, principal.project), declared_bytes)

    def hold(self, principal: Principal, size_bytes: int) -> int:
        """Takes room for a piece of a body that has come; how much was taken.

        Raises:
            Overloaded, RateLimited: as `enter`.
        """
        taken = max(size_bytes, _PIECE_BYTES)
        self._bytes.take((principal.organisation, principal.project), taken)
        return taken


class Stay:
    """One request's part of the room, and its slot; for requests that no pipeline settles. `close` gives all back."""

    def __init__(self, room: Room, principal: Principal) -> None:
        """Enters.

        Raises:
            Overloaded, RateLimited: as `Room.enter`.
        """
        room.enter(principal)
        self._room = room
        self._principal = principal
        self._limits: ProjectLimits | None = None
        self._held_bytes = 0

    def check(self, declared_bytes: int) -> None:
        """See `Room.check`."""
        self._room.check(self._principal, declared_bytes)

    def hold(self, size_bytes: int) -> None:
        """See `Room.hold`."""
        self._held_bytes += self._room.hold(self._principal, size_bytes)

    async def reserve(self, limits: ProjectLimits) -> None:
        """Takes one of the project's slots for services.

        Raises:
            RateLimited, LimitsAway: as `ProjectLimits.reserve`.
        """
        asked = limits.reserve(self._principal, SERVICES)
        if asked is not None:
            await asked
        self._limits = limits

    def close(self) -> None:
        """Gives everything back. Never awaits."""
        self._room.leave(self._principal, self._held_bytes)
        if self._limits is not None:
            self._limits.release(self._principal, SERVICES)
