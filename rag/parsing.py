"""The pool of processes in which documents are read: apart from everything else, limited in time and memory, recycled."""

import asyncio
import contextlib
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from rag.document import ParsedDocument, Parser
from rag.parser_worker import Order, Report
from tidegate import plugins
from tidegate.config.settings import ParserPoolSettings, PluginSpec
from tidegate.errors import InvalidRequest

_MOST_ANSWER_BYTES = 268_435_456


class Unreadable(InvalidRequest):
    """A document cannot be read; the message says why."""

    code = "invalid_file"


class _Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.documents = 0

    @classmethod
    async def start(cls, memory_bytes: int) -> "_Worker":
        argv = [sys.executable, "-m", "rag.parser_worker", str(memory_bytes)]
        pipe = asyncio.subprocess.PIPE
        env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return cls(
            await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, env=env, start_new_session=True)
        )

    async def read(self, order: bytes) -> bytes:
        """Sends an order and returns the report.

        Raises:
            asyncio.IncompleteReadError, OSError: the process ended.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101
        self.documents += 1
        process.stdin.write(struct.pack(">I", len(order)) + order)
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(4))
        if size > _MOST_ANSWER_BYTES:
            raise OSError("answer too large")
        return await process.stdout.readexactly(size)

    async def end(self) -> None:
        """Ends the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class ParserPool:
    """Reads documents, a limited number at once; `close` when done."""

    def __init__(self, specs: Sequence[PluginSpec], settings: ParserPoolSettings) -> None:
        self._settings = settings
        self._specs: dict[str, tuple[PluginSpec, str]] = {}
        for spec in specs:
            parser: Parser = plugins.build("document_parser", spec)
            self._specs |= {suffix: (spec, parser.media_type) for suffix in parser.suffixes}
        self._idle: list[_Worker] = []
        self._slots = asyncio.Semaphore(settings.processes)

    def kind_of(self, filename: str) -> tuple[PluginSpec, str]:
        """Which parser reads a file of this name, and its media type.

        Raises:
            Unreadable: none does.
        """
        suffix = PurePath(filename).suffix.lower()
        if suffix not in self._specs:
            known = ", ".join(sorted(self._specs))
            raise Unreadable(
                f"Files ending in {suffix[:16]!r} are not read here; these are: {known}.",
                param="file",
                code="unsupported_file",
            )
        return self._specs[suffix]

    async def parse(self, spec: PluginSpec, data: bytes) -> ParsedDocument:
        """The text of `data`.

        Raises:
            Unreadable: damaged, without text, or reading it takes more time or memory than is allowed.
        """
        order = msgspec.msgpack.encode(Order(spec.model_dump(), data))
        async with self._slots:
            report = await self._ask(order)
        if report.document is None:
            raise Unreadable(f"The file cannot be read: {report.problem}.", param="file")
        return report.document

    async def close(self) -> None:
        """Ends every process."""
        while self._idle:
            await self._idle.pop().end()

    async def _ask(self, order: bytes) -> Report:
        settings = self._settings
        worker = self._idle.pop() if self._idle else await _Worker.start(settings.memory_bytes)
        kept = False
        try:
            async with asyncio.timeout(settings.timeout_s):
                answer = await worker.read(order)
            kept = worker.documents < settings.documents
            return msgspec.msgpack.decode(answer, type=Report)
        except TimeoutError:
            return Report(problem=f"reading it takes longer than the {settings.timeout_s:.0f} s allowed")
        except (asyncio.IncompleteReadError, OSError):
            return Report(problem="reading it ended the process that read it, or needs more memory than is allowed")
        finally:
            if kept:
                self._idle.append(worker)
            else:
                await worker.end()
