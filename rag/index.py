"""The indexes that are searched now, one per project, and the way from one version to the next.

Indexes are built in one child process and searched in another: the engine holds the interpreter for tens of milliseconds, which
the event loop cannot spare.
"""

import asyncio
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rag.build import BuildOrder, index_format
from rag.embedding import DIMENSIONS
from rag.search_worker import TARGET, SearchOrder, SearchReport
from rag.storage import Contents, Shelf, description
from rag.stores.qdrant_edge import Hit, Scope
from tidegate.errors import Overloaded, TidegateError
from tidegate.serving.process_pool import JobFailed, PoolLimits, ProcessPool
from tidegate.store.documents import Owner

_TIMEOUT_S = 10.0
_MAX_WAITING = 64
_UNLIMITED = 2**62


class BuildFailed(Exception):
    """The child process that builds an index ended without one; the message holds its last words."""


class IndexUnavailable(Overloaded):
    """The index does not hold what it should; it is being built anew."""

    code = "index_unavailable"


class IndexBroken(Exception):
    """The index cannot be opened."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index on disk."""

    folder: Path
    contents: Contents


class Indexes:
    """Finds, searches and replaces indexes; `close` when done."""

    def __init__(self, root: Path, embedder_id: str) -> None:
        self.root = root
        self._format = index_format(embedder_id)
        self._broken: set[Path] = set()
        limits = PoolLimits(
            processes=1,  # the engine lets one process only open an index
            memory_bytes=resource.getrlimit(resource.RLIMIT_AS)[1],
            timeout_s=_TIMEOUT_S,
            max_jobs=_UNLIMITED,
            max_waiting=_MAX_WAITING,
            max_growth_bytes=_UNLIMITED,
            niceness=0,
        )
        self._searcher = ProcessPool(TARGET, limits, "searches")

    def shelf(self, owner: Owner) -> Shelf:
        """The owner's folder."""
        return Shelf(self.root, owner)

    def current(self, owner: Owner) -> Index | None:
        """The owner's index; None if there is none that can be used. Reads a file that names everything in it: use a thread."""
        folder = self.shelf(owner).current_index()
        found = None if folder is None or folder in self._broken else description(folder)
        if folder is None or found is None or found.format != self._format:
            return None
        return Index(folder, frozenset(found.contents))

    async def search(
        self, folder: Path, scope: Scope, query: str, vector: NDArray[np.float32], limit: int
    ) -> list[Hit]:
        """The best chunks in `scope`, found in the index in `folder`. Takes milliseconds, and more when it is opened.

        Raises:
            IndexBroken: it cannot be opened.
            IndexUnavailable: the process that searches has ended, or takes too long.
            RateLimited: too many searches of the project wait.
        """
        order = SearchOrder(str(folder), scope=scope, query=query, limit=limit)
        owner = Owner(scope.organisation, scope.project)
        return (await self._ask(owner, order, vector.astype(np.float32).tobytes())).hits

    def mark_broken(self, folder: Path) -> None:
        """Never use this index again."""
        self._broken.add(folder)

    async def rebuild(self, owner: Owner, wanted: Contents, old: Path | None) -> Path:
        """Build the owner's next index in a child process, from `old` where that can be done; searches go on meanwhile.

        Raises:
            BuildFailed: there is no next index; the current one stays.
        """
        shelf = self.shelf(owner)
        folder = await asyncio.to_thread(shelf.new_index)
        order = BuildOrder(
            organisation=owner.organisation,
            project=owner.project,
            dimensions=DIMENSIONS,
            format=self._format,
            folder=str(folder),
            previous=str(old) if old else None,
            segments=str(shelf.folder / "segments"),
            contents=list(wanted),
        )
        await _run_build(order)
        if not (folder / "tidegate.msgpack").exists():
            raise BuildFailed("the build left no description")
        self._broken.discard(folder)
        try:
            await self._ask(owner, SearchOrder(str(folder)))
        except IndexBroken as error:
            raise BuildFailed("the engine does not open what was built") from error
        except TidegateError:
            pass  # too many searches wait: the next one opens it
        await asyncio.to_thread(shelf.publish, folder)
        return folder

    async def retire(self, owner: Owner, folder: Path | None, current: Path) -> None:
        """Close an index that no search begins with any more, and remove every index of the owner but the current one."""
        if folder is not None:
            await self._ask(owner, SearchOrder(close=[str(folder)]))
        await asyncio.to_thread(self.shelf(owner).forget_other_indexes, current)

    async def close(self) -> None:
        """Let go of every index."""
        await self._searcher.close()

    async def _ask(self, owner: Owner, order: SearchOrder, body: bytes = b"") -> SearchReport:
        job = self._searcher.run((owner.organisation, owner.project), msgspec.msgpack.encode(order), body, attempts=2)
        try:
            # A cancelled job would take the process, and every index that is open in it, along.
            head, _ = await asyncio.shield(asyncio.ensure_future(job))
        except JobFailed as error:
            raise IndexUnavailable(f"The search failed ({error.failure.value}). Try again.") from error
        report = msgspec.msgpack.decode(head, type=SearchReport)
        if report.is_broken:
            raise IndexBroken(order.folder)
        return report


async def _run_build(order: BuildOrder) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rag.build",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, told = await process.communicate(msgspec.json.encode(order))
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        last = told.decode(errors="replace").strip().splitlines()[-1:] or [""]
        raise BuildFailed(f"exit {process.returncode}: {last[0][:200]}")
