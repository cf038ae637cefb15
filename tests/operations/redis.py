"""A Redis of the test's own, which it may kill and hang."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.stand import Process, free_port, wait_until


class OwnRedis:
    """One server on a free port, nothing on disk; options as its configuration has them."""

    def __init__(self, folder: Path, **options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Always empty."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "dir": str(self._folder)} | self._options
        argv = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", *value.split("|"))]
        log = self._folder / "redis.log"
        before = log.stat().st_size if log.exists() else 0
        self.process = Process(["redis-server", *argv], log)
        wait_until(lambda: "Ready to accept connections" in self.process.text()[before:], 10, "Redis")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def hang(self) -> None:
        """It takes connections and what is sent, and answers nothing."""
        self.process.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """What was sent meanwhile is done now."""
        self.process.popen.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> Any:
        """The answer to a command; text."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)


@contextmanager
def own_redis(folder: Path, **options: str) -> Iterator[OwnRedis]:
    """Started, and stopped whatever happens."""
    made = OwnRedis(folder, **options)
    made.start()
    try:
        yield made
    finally:
        with suppress(ProcessLookupError):
            made.go_on()
        made.process.stop()
