"""A worker's place among the processes of one gateway: what its supervisor gives it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import msgspec

from tidegate.telemetry.metrics import SharedPlace

MOST_SLOTS = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Descriptors are inherited."""

    slot: int
    """Which no other living worker has, below `MOST_SLOTS`."""
    listener: int
    """The listening socket of the public port."""
    limits: int
    """The table of shared limits."""
    metrics: str
    """The folder of the metrics that add up."""
    supervisor: int
    """Its process id."""

    @classmethod
    def read(cls, text: str) -> Self:
        """The opposite of `as_text`."""
        return cls(**msgspec.json.decode(text))

    def as_text(self) -> str:
        """For the worker's command line."""
        return msgspec.json.encode(asdict(self)).decode()

    @property
    def shared_metrics(self) -> SharedPlace:
        """Where this worker counts."""
        return SharedPlace(Path(self.metrics), str(self.slot))


def journal_of(directory: Path, slot: int) -> Path:
    """The folder of a worker's journal."""
    return directory / f"worker-{slot}"


def journals(directory: Path) -> list[Path]:
    """Every folder in which a gateway may have left usage: its own, and those of workers."""
    return [directory, *sorted(directory.glob("worker-*"))]
