"""The knowledge service's composition root: everything is built here once and passed on.

A document's way in: `api/files.py` → `intake.py` (read and screened in a process apart, kept) → `jobs.py` (cut, embedded) →
`indexing.py` → `build.py` (a new index in a child process) → `index.py` (swapped in). A question's way: `api/search.py` →
`retrieve.py` (embedded first of all) → `index.py` (found within the caller's scope by another process) → screened passages with
exact spans.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from fastapi import FastAPI

from rag.api import embeddings, files, search, vector_stores
from rag.api.parts import Parts
from rag.api.uploads import UploadBudget
from rag.embedding import Embedder
from rag.index import Indexes
from rag.intake import Intake
from rag.jobs import Jobs
from rag.parsing import ParserPool
from rag.policies import Policies
from rag.retrieve import Retriever
from tidegate import plugins
from tidegate.config.settings import Settings
from tidegate.errors import OperatorError
from tidegate.identity import Verifier
from tidegate.serving.door import Door, build_app
from tidegate.serving.http import management
from tidegate.store.database import Database
from tidegate.store.resources import CurrentResources
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing

AUDIENCE = "knowledge"


@asynccontextmanager
async def build(settings: Settings, log: JsonLog) -> AsyncIterator[tuple[Door, FastAPI]]:
    """Everything the service needs, running: the service and its management application.

    Raises:
        OperatorError: keys, database, model or a plugin is missing or wrong, or another process owns the directory.
    """
    options = settings.knowledge
    verifier = Verifier.read(settings.identity.public_keys_file, AUDIENCE)
    metrics = Metrics()
    exporters = [plugins.build("telemetry_sink", sink) for sink in settings.telemetry.sinks]
    with _owned(options.directory):
        pool = ParserPool(options.parsers, options.parser_pool)
        tracing = Tracing("tidegate-knowledge", settings.telemetry.sample_ratio, exporters)
        database = Database(settings.store)
        await database.require_current()
        embedder = await Embedder.load(options.embedding_threads)
        indexes = Indexes(options.directory, embedder.embedder_id)
        jobs = Jobs(database, embedder, indexes, metrics, log, max_chunks=options.max_chunks_per_file)
        parts = Parts(
            database=database,
            embedder=embedder,
            indexes=indexes,
            intake=Intake(database, pool, metrics),
            jobs=jobs,
            policies=Policies(CurrentResources(database, settings.store.refresh_interval_s)),
            retriever=Retriever(database, embedder, jobs.indexing, metrics, tracing),
            tracing=tracing,
            uploads=UploadBudget(options.max_file_bytes),
            max_file_bytes=options.max_file_bytes,
        )
        await jobs.recover()
        work = asyncio.ensure_future(jobs.run())
        door = Door(_application(parts, log), verifier, tracing, metrics, log)
        try:
            yield door, management(door.not_ready, metrics)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await jobs.release()
            await pool.close()
            embedder.close()
            await indexes.close()
            await database.close()
            await asyncio.to_thread(tracing.close)


def _application(parts: Parts, log: JsonLog) -> FastAPI:
    app = build_app("Tidegate knowledge", log)
    app.state.parts = parts
    # Before the stores: the path of a search over several stores looks like that of a store named `search`.
    for module in (files, search, vector_stores, embeddings):
        app.include_router(module.router)
    return app


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """The directory, for this process alone: the embedded engine stands no second one.

    Raises:
        OperatorError: it has an owner already, or cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OperatorError(f"knowledge.directory {directory}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise OperatorError(f"knowledge.directory {directory} is in use by another process") from error
    try:
        yield
    finally:
        os.close(handle)
