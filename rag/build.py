"""Builds an index, in a process of its own: `python -m rag.build`, the order as JSON on standard input.

Where nothing is taken out it starts from a copy of the index that is searched now. Where something is, it starts from nothing:
the engine keeps deleted texts in its files for a while, and what was deleted must be gone.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from rag.storage import Contents, Segment, describe, description
from rag.stores.qdrant_edge import FORMAT, EdgeBuilder, Entry
from tidegate.serving.children import die_with_parent


class BuildOrder(Struct):
    """What to build, and from what."""

    organisation: str
    project: str
    dimensions: int
    format: str
    folder: str
    previous: str | None
    segments: str
    contents: list[tuple[str, str, str]]


def main() -> None:
    """Command line."""
    die_with_parent(signal.SIGKILL)
    os.nice(19)  # searches go first
    build(msgspec.json.decode(sys.stdin.buffer.read(), type=BuildOrder))


def build(order: BuildOrder) -> None:
    """Makes the index in `order.folder`, which is empty."""
    folder, wanted = Path(order.folder), frozenset(order.contents)
    held: Contents = frozenset()
    if order.previous is not None:
        found = description(Path(order.previous))
        if found is not None and found.format == order.format and wanted.issuperset(found.contents):
            shutil.copytree(order.previous, folder, dirs_exist_ok=True)
            (folder / "tidegate.msgpack").unlink()
            held = frozenset(found.contents)
    builder = EdgeBuilder(folder, order.dimensions, order.organisation, order.project)
    for store_id, file_id, segment in sorted(wanted - held):
        path = Path(order.segments) / f"{segment}.msgpack"
        builder.add(_entries(path, order.format, store_id, file_id, segment))
    builder.finish()
    describe(folder, order.format, wanted)


def index_format(embedder_id: str) -> str:
    """Indexes of another engine or another embedder are not continued."""
    return f"{FORMAT} {embedder_id}"


def _entries(path: Path, wanted: str, store_id: str, file_id: str, segment: str) -> Iterator[Entry]:
    value = msgspec.msgpack.decode(path.read_bytes(), type=Segment)
    if value.embedder_id and index_format(value.embedder_id) != wanted:
        raise ValueError(f"segment {segment} was made by the embedder {value.embedder_id}, the index is {wanted}")
    for ordinal, (chunk, vector) in enumerate(zip(value.chunks, value.matrix(), strict=True)):
        yield Entry(store_id, file_id, segment, ordinal, chunk, vector)


if __name__ == "__main__":
    main()
