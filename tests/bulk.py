"""A large document put behind the service's back, as if it had been cut and embedded: what is built from it is real."""

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import insert

from rag.chunking import Chunking
from rag.document import Chunk, ParsedDocument, Section
from rag.embedding import installed_embedder
from rag.storage import Segment, Shelf, segment_name
from tidegate.config.settings import StoreSettings
from tidegate.store import tables
from tidegate.store.database import Database
from tidegate.store.documents import EMBEDDED, Owner, add_file, change_store_file, get_store_file, put_store_file

OWNER = Owner("acme", "demo")
WORDS = [
    f"{a}{b}"
    for a in ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru"]
    for b in ["dan", "kel", "mir", "nos", "pet", "quo", "ras", "tul", "vex", "wol"]
]


def add_embedded(store_url: str, directory: Path, store_id: str, chunks: int, seed: int = 1) -> str:
    """Puts a file of `chunks` random chunks into the store as `embedded`; the service must not run."""
    shuffled = random.Random(seed)
    texts = [" ".join(shuffled.choices(WORDS, k=40)) for _ in range(chunks)]
    vectors = np.random.default_rng(seed).standard_normal((chunks, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    file_id, chunking = f"file-{seed:024d}", msgspec.json.encode(Chunking()).decode()
    segment = segment_name(file_id, chunking, installed_embedder())
    at, made = 0, []
    for text in texts:
        made.append(Chunk(at, at + len(text), None, None, text))
        at += len(text) + 1
    whole = "\n".join(texts)
    shelf = Shelf(directory, OWNER)
    shelf.put_document(file_id, msgspec.msgpack.encode(ParsedDocument(whole, [Section(0, len(whole))])))
    shelf.put_segment(segment, Segment(made, vectors.tobytes()))
    job = {"store_id": store_id, "file_id": file_id, "segment": segment, "attributes": "{}", "chunking": chunking}
    asyncio.run(_rows(store_url, job, chunks))
    return file_id


async def _rows(store_url: str, job: dict[str, Any], chunks: int) -> None:
    database = Database(StoreSettings(url=store_url))
    async with database.transaction() as connection:
        row = {"file_id": job["file_id"], "filename": "bulk.txt", "purpose": "assistants", "bytes": 1, "characters": 1}
        await add_file(connection, OWNER, {**row, "sha256": "0" * 64, "media_type": "text/plain"})
        await put_store_file(connection, OWNER, job)
        row_there = await get_store_file(connection, OWNER, job["store_id"], job["file_id"])
        assert row_there is not None
        await change_store_file(connection, row_there, state=EMBEDDED, chunks=chunks)
    await database.close()


def add_many(store_url: str, directory: Path, store_id: str, files: int, *, owner: Owner = OWNER) -> None:
    """Puts `files` files of one chunk each into the store as `embedded`; the service must not run."""
    shuffled, embedder = random.Random(files), installed_embedder()
    vectors = np.random.default_rng(files).standard_normal((files, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chunking = msgspec.json.encode(Chunking()).decode()
    shelf = Shelf(directory, owner)
    shelf.make()
    folder = shelf.segment_path("").parent
    folder.mkdir(exist_ok=True)
    there, jobs = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, vector in enumerate(vectors):
        text, file_id = " ".join(shuffled.choices(WORDS, k=40)), f"file-{number:024d}"
        segment = segment_name(file_id, chunking, embedder)
        value = Segment([Chunk(0, len(text), None, None, text)], vector.tobytes(), embedder)
        (folder / f"{segment}.msgpack").write_bytes(msgspec.msgpack.encode(value))
        common = {**owner.columns(), "file_id": file_id, "created_at": float(number)}
        there.append(common | {"filename": f"{number}.txt", "purpose": "assistants", "bytes": 1, "characters": 1})
        jobs.append(common | {"store_id": store_id, "segment": segment, "chunking": chunking, "chunks": 1})
    asyncio.run(_many_rows(store_url, there, jobs))


async def _many_rows(store_url: str, there: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> None:
    database = Database(StoreSettings(url=store_url))
    async with database.transaction() as connection:
        await connection.execute(
            insert(tables.files), [row | {"sha256": "0" * 64, "media_type": "text/plain"} for row in there]
        )
        fresh = {"state": EMBEDDED, "attempts": 1, "attributes": "{}", "usage_bytes": 1}
        await connection.execute(insert(tables.store_files), [job | fresh for job in jobs])
    await database.close()
