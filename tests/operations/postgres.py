"""A PostgreSQL of the test's own, which it may stop; never run as root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.stand import free_port


class OwnPostgres:
    """One cluster in a temporary folder, on a free port unless one is named."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._data = folder / "pg"
        self.port = port or free_port()
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["runuser", "-u", "postgres", "--"]
            folder.chmod(0o755)
            for parent in folder.parents[:3]:
                parent.chmod(parent.stat().st_mode | 0o011)
            self._data.mkdir()
            shutil.chown(self._data, "postgres")
            self._data.chmod(0o700)
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        found = shutil.which(program) or str(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))[-1])
        subprocess.run(
            [*self._as, found, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._data} -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-w", "-l", str(self._data / "log"), "start")

    def make(self, name: str) -> None:
        """A user and a database of this name."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres")
        self._run("createuser", *where, name)
        self._run("createdb", *where, "-O", name, name)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"


@contextmanager
def own_postgres(folder: Path) -> Iterator[OwnPostgres]:
    """Started, and stopped whatever happens."""
    made = OwnPostgres(folder)
    try:
        yield made
    finally:
        with suppress(subprocess.CalledProcessError):  # the test has stopped it
            made.stop()
