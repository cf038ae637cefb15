"""What a check has found."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How it went."""

    OK = "ok"
    WARNING = "warning"
    """The install goes through, but something will not be as it could be."""
    UNKNOWN = "unknown"
    """It could not be seen, most often because the caller may not look."""
    FAILED = "failed"
    """The install, or what it installs, will not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer to one question."""

    check: str
    """The question, as `docs/operations/install.md` names it."""
    status: Status
    what: str
    """A sentence."""
    remedy: str = ""
    """What to do about it."""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, what)


def failed(check: str, what: str, remedy: str) -> Finding:
    """It will not work."""
    return Finding(check, Status.FAILED, what, remedy)


def warning(check: str, what: str, remedy: str) -> Finding:
    """It will work, less well."""
    return Finding(check, Status.WARNING, what, remedy)


def unknown(check: str, what: str, remedy: str) -> Finding:
    """Nobody can say."""
    return Finding(check, Status.UNKNOWN, what, remedy)
