"""What the knowledge service keeps on disk: texts of documents, segments (a text cut and embedded), indexes.

The text that was screened is kept, the file that came is not: nothing that no guardrail has read lies anywhere.

Every project has a folder of its own, named by a digest, since names of projects are not names of folders:

    <root>/<project>/owner.json
                     documents/<file_id>.msgpack
                     segments/<segment>.msgpack
                     indexes/<version>/…, indexes/current

Files appear complete or not at all. All functions block; call them in a thread where the data is large.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rag.document import Chunk, ParsedDocument
from tidegate.store.documents import Owner

_UNFINISHED = ".unfinished"
Contents = frozenset[tuple[str, str, str]]
"""What an index holds: store, file, segment."""


class Segment(Struct, frozen=True):
    """The chunks of a file and their vectors, one row of float32 each."""

    chunks: list[Chunk]
    vectors: bytes
    embedder_id: str = ""
    """What made the vectors; empty in segments of earlier versions, whose names depend on it all the same."""

    def matrix(self) -> NDArray[np.float32]:
        """The vectors as rows."""
        return np.frombuffer(self.vectors, np.float32).reshape(len(self.chunks), -1)


class IndexDescription(Struct, frozen=True):
    """What stands beside an index: its format and what it holds."""

    format: str
    contents: list[tuple[str, str, str]]


class Shelf:
    """One project's folder."""

    def __init__(self, root: Path, owner: Owner) -> None:
        name = hashlib.sha256(f"{owner.organisation}\0{owner.project}".encode()).hexdigest()[:24]
        self.owner = owner
        self.folder = root / name
        self._indexes = self.folder / "indexes"

    def make(self) -> None:
        """Makes the folder if it is missing."""
        if not (self.folder / "owner.json").exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(self.folder / "owner.json", json.dumps([self.owner.organisation, self.owner.project]).encode())

    def put_document(self, file_id: str, document: bytes) -> None:
        """Keeps the text of a file: a `ParsedDocument` as MessagePack."""
        self.make()
        write(self._document(file_id), document)

    def document(self, file_id: str) -> ParsedDocument:
        """The text of a file."""
        return msgspec.msgpack.decode(self._document(file_id).read_bytes(), type=ParsedDocument)

    def delete_document(self, file_id: str) -> None:
        """Forgets a file."""
        self._document(file_id).unlink(missing_ok=True)

    def segment_path(self, segment: str) -> Path:
        """Where a segment lies."""
        return self.folder / "segments" / f"{segment}.msgpack"

    def segment(self, segment: str) -> Segment:
        """A segment that has been kept."""
        return msgspec.msgpack.decode(self.segment_path(segment).read_bytes(), type=Segment)

    def put_segment(self, segment: str, value: Segment) -> None:
        """Keeps a segment."""
        self.make()
        write(self.segment_path(segment), msgspec.msgpack.encode(value))

    def keep_documents(self, file_ids: Iterable[str]) -> None:
        """Forgets every document but these."""
        _keep(self.folder / "documents", file_ids)

    def segments(self, *, unfinished: bool = False) -> set[str]:
        """Names of all segments, also of those whose write has not ended if `unfinished`."""
        try:
            files = os.listdir(self.folder / "segments")
        except FileNotFoundError:
            return set()
        return {name.partition(".")[0] for name in files if unfinished or not name.endswith(_UNFINISHED)}

    def delete_segments(self, segments: Iterable[str]) -> None:
        """Forgets these segments, also what a write left unfinished."""
        for segment in segments:
            path = self.segment_path(segment)
            path.unlink(missing_ok=True)
            path.with_name(path.name + _UNFINISHED).unlink(missing_ok=True)

    def current_index(self) -> Path | None:
        """The index that is searched; None if there is none yet."""
        try:
            path = self._indexes / (self._indexes / "current").read_text().strip()
        except FileNotFoundError:
            return None
        return path if path.is_dir() else None

    def new_index(self) -> Path:
        """An empty folder for the next index; what earlier attempts left behind is removed."""
        current = self.current_index()
        version = int(current.name) + 1 if current else 1
        self._indexes.mkdir(parents=True, exist_ok=True)
        for path in self._indexes.iterdir():
            if path.is_dir() and path != current:
                shutil.rmtree(path)
        folder = self._indexes / f"{version:08d}"
        folder.mkdir()
        return folder

    def publish(self, index: Path) -> None:
        """From here on `index` is the current one."""
        write(self._indexes / "current", index.name.encode())

    def forget_other_indexes(self, index: Path) -> None:
        """Removes every index but this."""
        for path in self._indexes.iterdir():
            if path.is_dir() and path != index:
                shutil.rmtree(path)

    def _document(self, file_id: str) -> Path:
        return self.folder / "documents" / f"{file_id}.msgpack"


def _keep(folder: Path, names: Iterable[str]) -> None:
    wanted = {f"{name}.msgpack" for name in names}
    for path in list(folder.iterdir()) if folder.exists() else []:
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def shelves(root: Path) -> list[Shelf]:
    """Every project that has a folder."""
    return [Shelf(root, Owner(*json.loads(path.read_text()))) for path in root.glob("*/owner.json")]


def describe(index: Path, format_name: str, contents: Contents) -> None:
    """Writes what an index holds; the last thing that a build does."""
    write(index / "tidegate.msgpack", msgspec.msgpack.encode(IndexDescription(format_name, sorted(contents))))


def description(index: Path) -> IndexDescription | None:
    """What an index holds; None if its build did not finish."""
    try:
        return msgspec.msgpack.decode((index / "tidegate.msgpack").read_bytes(), type=IndexDescription)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def segment_name(file_id: str, chunking: str, embedder_id: str) -> str:
    """The name of a file cut and embedded in one way."""
    return hashlib.sha256("\0".join((file_id, chunking, embedder_id)).encode()).hexdigest()[:32]


def write(path: Path, data: bytes) -> None:
    """Writes a file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(path.name + _UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
