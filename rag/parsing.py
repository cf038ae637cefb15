"""The pool of processes in which documents are read and screened: apart, limited in time and memory, shared by projects."""

from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from guardrails.engine.policy import Policy
from rag.document import Parser
from rag.parser_worker import TARGET, Order, Report
from tidegate import plugins
from tidegate.config.settings import ParserPoolSettings, PluginSpec
from tidegate.errors import InvalidRequest
from tidegate.serving.process_pool import Failure, JobFailed, PoolLimits, ProcessPool
from tidegate.store.documents import Owner

_MAX_WAITING = 4


class Unreadable(InvalidRequest):
    """A document cannot be read; the message says why."""

    code = "invalid_file"


class ParserPool:
    """Reads documents, a limited number at once and of no project as many; `close` when done."""

    def __init__(self, specs: Sequence[PluginSpec], settings: ParserPoolSettings) -> None:
        self._settings = settings
        self._specs: dict[str, tuple[PluginSpec, str]] = {}
        for spec in specs:
            parser: Parser = plugins.build("document_parser", spec)
            self._specs |= {suffix: (spec, parser.media_type) for suffix in parser.suffixes}
        limits = PoolLimits(
            processes=settings.processes,
            memory_bytes=settings.memory_bytes,
            timeout_s=settings.timeout_s,
            max_jobs=settings.documents,
            max_waiting=_MAX_WAITING,
        )
        self._pool = ProcessPool(TARGET, limits, "files")

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

    async def read(self, owner: Owner, spec: PluginSpec, policy: Policy, data: bytes) -> tuple[Report, bytes]:
        """What reading and screening `data` gave: a report, and the document as MessagePack where it is not refused.

        Cancelling kills the process that does it.

        Raises:
            Unreadable: damaged, without text, or reading it takes more time or memory than is allowed.
            RateLimited: too many files of the project wait already.
        """
        order = msgspec.msgpack.encode(Order(spec.model_dump_json().encode(), policy.spec))
        try:
            head, document = await self._pool.run((owner.organisation, owner.project), order, data)
        except JobFailed as error:
            raise self._as_error(error) from error
        report = msgspec.msgpack.decode(head, type=Report)
        if report.problem is not None:
            raise Unreadable(f"The file cannot be read: {report.problem}.", param="file")
        return report, document

    async def close(self) -> None:
        """Ends every process."""
        await self._pool.close()

    def _as_error(self, error: JobFailed) -> Exception:
        match error.failure:
            case Failure.TIMEOUT:
                why = f"reading it takes longer than the {self._settings.timeout_s:.0f} s allowed"
            case Failure.OUT_OF_MEMORY:
                why = "reading it needs more memory than is allowed"
            case Failure.DIED:
                why = "reading it ended the process that read it, or needs more memory than is allowed"
            case _:
                return RuntimeError(f"screening failed: {error.detail}")
        return Unreadable(f"The file cannot be read: {why}.", param="file")
