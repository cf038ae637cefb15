"""A large document put behind the service's back, as if it had been cut and embedded: what is built from it is real."""

import asyncio
import random
from pathlib import Path

import msgspec
import numpy as np

from rag.chunking import Chunking
from rag.document import Chunk, ParsedDocument, Section
from rag.embedding import installed_embedder
from rag.storage import Segment, Shelf, segment_name
from tidegate.config.settings import StoreSettings
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
    shelf.put_document(file_id, ParsedDocument(whole, [Section(0, len(whole))]))
    shelf.put_segment(segment, Segment(made, vectors.tobytes()))
    asyncio.run(_rows(store_url, store_id, file_id, segment, chunking))
    return file_id


async def _rows(store_url: str, store_id: str, file_id: str, segment: str, chunking: str) -> None:
    database = Database(StoreSettings(url=store_url))
    async with database.transaction() as connection:
        row = {"file_id": file_id, "filename": "bulk.txt", "purpose": "assistants", "bytes": 1, "characters": 1}
        await add_file(connection, OWNER, {**row, "sha256": "0" * 64, "media_type": "text/plain"})
        job = {"store_id": store_id, "file_id": file_id, "segment": segment, "attributes": "{}", "chunking": chunking}
        await put_store_file(connection, OWNER, job)
        row_there = await get_store_file(connection, OWNER, store_id, file_id)
        assert row_there is not None
        await change_store_file(connection, row_there, state=EMBEDDED)
    await database.close()
