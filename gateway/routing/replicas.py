"""What is known of a replica, from our own traffic alone: `/health` says 200 while a model server is stuck or asleep.

serving ──failures in a row──▶ ejected ──time is over──▶ due for a probe ──one request──▶ serving, slowly at first
                                  ▲                                            │
                                  └───────────── failed: twice as long ────────┘
"""

from dataclasses import dataclass, field

from tidegate.config.settings import HealthSettings

_FIRST_SHARE = 0.1


@dataclass(slots=True)
class ReplicaState:
    """One replica as one gateway process sees it. Times are of `time.monotonic()`."""

    url: str
    health: HealthSettings = field(default_factory=HealthSettings)
    inflight: int = 0
    streams: int = 0
    """Of these, the streamed ones: they alone show progress before they end."""
    requests: int = 0
    failures: int = 0
    """Failures in a row."""
    ejections: int = 0
    """Ejections in a row, each twice as long as the one before."""
    ejected_until: float = 0.0
    """Not 0 until a probe has gone well."""
    probing: bool = False
    resting_until: float = 0.0
    """The replica itself has asked for a pause."""
    warming_since: float | None = None
    progress_at: float = 0.0
    """When an event of any answer last arrived; the relay writes it."""

    def began(self, now: float, *, stream: bool) -> bool:
        """An attempt begins; whether it is a probe, which `ended` must be told."""
        self.inflight += 1
        self.requests += 1
        if stream:
            if not self.streams:
                self.progress_at = now
            self.streams += 1
        probe = self.is_due_for_probe(now)
        self.probing = self.probing or probe
        return probe

    def answered(self, now: float) -> None:
        """An attempt has brought the first event of an answer, or a whole one: the replica is well."""
        self.progress_at = now
        self.failures = 0
        if self.ejected_until:
            self.ejections, self.ejected_until, self.probing = 0, 0.0, False
            self.warming_since = now

    def ended(self, *, stream: bool, probe: bool) -> None:
        """An attempt is over, however it went."""
        self.inflight -= 1
        self.streams -= stream
        if probe:
            self.probing = False

    def failed(self, now: float) -> bool:
        """An attempt failed by the replica's fault; whether it is ejected for that."""
        self.failures += 1
        if now < self.ejected_until or (self.failures < self.health.eject_after_failures and not self.ejected_until):
            return False
        pause_s = min(self.health.eject_for_s * 2**self.ejections, self.health.eject_at_most_s)
        self.ejections = min(self.ejections + 1, 32)
        self.ejected_until = now + pause_s
        self.probing = False
        return True

    def rests(self, now: float, seconds: float) -> None:
        """The replica has asked to be left alone for so long."""
        self.resting_until = max(self.resting_until, now + min(seconds, self.health.rest_at_most_s))

    def is_due_for_probe(self, now: float) -> bool:
        """Whether its ejection is over and one request may show how it is."""
        return 0 < self.ejected_until <= now and not self.probing

    def serves(self, now: float) -> bool:
        """Whether it should get requests: neither ejected nor resting nor silent for too long."""
        if self.ejected_until or now < self.resting_until:
            return False
        return not self.streams or now - self.progress_at < self.health.stuck_after_s

    def warmth(self, now: float) -> float:
        """The share of a usual load that it should get, in (0, 1]: little just after it has come back."""
        if self.warming_since is None:
            return 1.0
        share = (now - self.warming_since) / self.health.slow_start_s
        if share >= 1:
            self.warming_since = None
            return 1.0
        return max(share, _FIRST_SHARE)
