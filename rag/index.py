"""The indexes that are searched now, one per project, and the way from one version to the next."""

import asyncio
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rag.build import BuildOrder, index_format
from rag.embedding import DIMENSIONS
from rag.storage import Contents, Shelf, description
from rag.stores.qdrant_edge import EdgeIndex, Hit, Scope
from tidegate.store.documents import Owner

MAX_OPEN = 64
_BREATH_S = 0.2
_NOTHING: Contents = frozenset()


class BuildFailed(Exception):
    """The child process that builds an index ended without one; the message holds its last words."""


@dataclass(slots=True)
class _Open:
    index: EdgeIndex
    contents: Contents


class Indexes:
    """Opens, searches and replaces indexes. Opened, searched and closed on the event loop's thread, so no swap has a race."""

    def __init__(self, root: Path, embedder_id: str) -> None:
        self.root = root
        self._format = index_format(embedder_id)
        self._open: OrderedDict[Owner, _Open] = OrderedDict()

    def shelf(self, owner: Owner) -> Shelf:
        """The owner's folder."""
        return Shelf(self.root, owner)

    def contents(self, owner: Owner) -> Contents:
        """What the owner's current index holds."""
        found = self._get(owner)
        return found.contents if found else _NOTHING

    def search(self, scope: Scope, query: str, vector: NDArray[np.float32], limit: int) -> list[Hit]:
        """The best chunks in `scope`; takes milliseconds."""
        found = self._get(Owner(scope.organisation, scope.project))
        return found.index.search(scope, query, vector, limit) if found and scope.store_ids else []

    async def rebuild(self, owner: Owner, wanted: Contents) -> None:
        """Builds the owner's next index in a child process and swaps it in; searches go on meanwhile.

        Raises:
            BuildFailed: there is no next index; the current one stays.
        """
        shelf = self.shelf(owner)
        previous = shelf.current_index() if self._get(owner) else None
        folder = await asyncio.to_thread(shelf.new_index)
        order = BuildOrder(
            organisation=owner.organisation,
            project=owner.project,
            dimensions=DIMENSIONS,
            format=self._format,
            folder=str(folder),
            previous=str(previous) if previous else None,
            segments=str(shelf.folder / "segments"),
            contents=sorted(wanted),
        )
        await _run_build(order)
        if description(folder) is None:
            raise BuildFailed("the build left no description")
        fresh = EdgeIndex(folder)  # holds the interpreter for tens of milliseconds, as closing does: never both at once
        old = self._open.pop(owner, None)
        self._open[owner] = _Open(fresh, wanted)
        await asyncio.to_thread(shelf.publish, folder)
        if old is not None:
            await asyncio.sleep(_BREATH_S)
            old.index.close()
        await asyncio.to_thread(shelf.forget_other_indexes, folder)

    def close(self) -> None:
        """Lets go of every index."""
        while self._open:
            self._open.popitem()[1].index.close()

    def _get(self, owner: Owner) -> _Open | None:
        if owner in self._open:
            self._open.move_to_end(owner)
            return self._open[owner]
        folder = self.shelf(owner).current_index()
        found = None if folder is None else description(folder)
        if folder is None or found is None or found.format != self._format:
            return None
        try:
            index = EdgeIndex(folder)
        except Exception:  # noqa: BLE001 - the engine has no error type of its own; a broken index is built anew
            return None
        self._open[owner] = _Open(index, frozenset(found.contents))
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].index.close()
        return self._open[owner]


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
