"""Child processes of `tidegate up`: started in their own session, logged to a file, never left behind."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tidegate.errors import OperatorError
from tidegate.serving.children import die_with_parent


class PartFailed(OperatorError):
    """A part did not come up, or died; the message holds its last log lines and what to do."""


class Part:
    """One process with its log."""

    def __init__(
        self, name: str, argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str], advice: str
    ) -> None:
        self.name = name
        self.log = log
        self.ready_after_s: float | None = None
        """From its start until it first answered; None until then."""
        self._advice = advice
        self._started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            self._popen = subprocess.Popen(  # noqa: S603 - our own command lines
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def check(self) -> None:
        """Complains if it has ended.

        Raises:
            PartFailed: it has.
        """
        code = self.exit_code()
        if code is not None:
            raise self.failure(f"{self.name} stopped (exit {code})")

    def failure(self, what: str) -> PartFailed:
        """`what` with the last lines of the log and what to do."""
        return PartFailed(f"{what}\n{tail(self.log)}\nWhat to do: {self._advice}\nWhole log: {self.log}")

    def note_ready(self) -> None:
        """It has answered."""
        self.ready_after_s = time.monotonic() - self._started

    def terminate(self) -> None:
        """Asks the whole group to stop."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)

    def finish(self, timeout_s: float) -> None:
        """Waits for it to stop; after `timeout_s`, or if children of it remain, the whole group is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def wait_for(parts: Mapping[str, Part], timeout_s: float, tick: Callable[[], None]) -> None:
    """Waits until every part answers 200 at its URL; notes when each did.

    Raises:
        PartFailed: one has ended, or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    waiting = dict(parts)
    while waiting:
        for url, part in list(waiting.items()):
            if answers(url):
                part.note_ready()
                del waiting[url]
            else:
                part.check()
                if time.monotonic() > deadline:
                    raise part.failure(f"{part.name} did not answer at {url} within {timeout_s:.0f} s")
        tick()
        time.sleep(0.1 if waiting else 0)


def stop_all(parts: Sequence[Part], timeout_s: float = 20) -> None:
    """Stops every part, last started first, all at once."""
    for part in reversed(parts):
        part.terminate()
    deadline = time.monotonic() + timeout_s
    for part in reversed(parts):
        part.finish(max(0.1, deadline - time.monotonic()))


def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - http URLs of our own
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented."""
    try:
        last = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        last = []
    return "\n".join(f"  | {line[:300]}" for line in last) or "  | (the log is empty)"
