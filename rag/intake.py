"""A file on its way in: read and screened in a process apart, and only then kept."""

import asyncio

from guardrails.engine.policy import Policy
from guardrails.engine.requests import Refused
from guardrails.engine.texts import screen_text
from rag.parsing import ParserPool
from rag.storage import Shelf
from tidegate.errors import InvalidRequest
from tidegate.store.database import Database
from tidegate.store.documents import Owner, Row, add_file, get_file, new_id
from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Verdict

PURPOSES = frozenset({"assistants", "user_data"})
_MOST_NAME_CHARACTERS = 255


class Intake:
    """Takes files in."""

    def __init__(self, database: Database, pool: ParserPool, metrics: Metrics) -> None:
        self._database = database
        self._pool = pool
        self._metrics = metrics

    async def take(self, shelf: Shelf, policy: Policy, filename: str, purpose: str, data: bytes) -> Row:
        """Reads, screens and keeps a file; its row.

        Raises:
            InvalidRequest: name, purpose or content cannot be taken.
            Refused: a guardrail refuses the name or the text; nothing of the file is kept.
            RateLimited: too many files of the project wait already.
        """
        if purpose not in PURPOSES:
            raise InvalidRequest(f"purpose must be one of {sorted(PURPOSES)}.", param="purpose")
        if not data:
            raise InvalidRequest("The file is empty.", param="file", code="invalid_file")
        spec, media_type = self._pool.kind_of(filename)
        filename = self._screened_name(policy, _clean(filename))
        report, document = await self._pool.read(shelf.owner, spec, policy, data)
        count_verdicts(self._metrics, report.verdicts)
        if report.refusal:
            raise Refused(f"The file is refused. {report.refusal}", report.verdicts)
        if report.refusal is not None:
            raise InvalidRequest("The file holds what must be masked, across the border of two sections.", param="file")
        file_id = new_id("file-")
        row = {
            "file_id": file_id,
            "filename": filename,
            "purpose": purpose,
            "bytes": len(data),
            "characters": report.characters,
            "sha256": report.sha256,
            "media_type": media_type,
        }
        keeping = asyncio.ensure_future(self._keep(shelf, row, document))
        keeping.add_done_callback(_retrieve)
        return await asyncio.shield(keeping)  # a client that disconnects now does not leave a text without a row

    async def _keep(self, shelf: Shelf, row: dict[str, object], document: bytes) -> Row:
        """Text and row, or neither."""
        file_id = str(row["file_id"])
        try:
            await asyncio.to_thread(shelf.put_document, file_id, document)
            return await self._note(shelf.owner, row)
        except BaseException:
            shelf.delete_document(file_id)
            raise

    async def _note(self, owner: Owner, row: dict[str, object]) -> Row:
        async with self._database.transaction() as connection:
            await add_file(connection, owner, row)
            found = await get_file(connection, owner, str(row["file_id"]))
        assert found is not None  # noqa: S101
        return found

    def _screened_name(self, policy: Policy, name: str) -> str:
        screened = screen_text(policy, name, "ingested")
        count_verdicts(self._metrics, screened.verdicts)
        if screened.refusal is not None:
            raise Refused(f"The file name is refused. {screened.refusal}", screened.verdicts)
        return screened.text


def count_verdicts(metrics: Metrics, verdicts: tuple[Verdict, ...]) -> None:
    """Counts what guardrails found."""
    for verdict in verdicts:
        metrics.count(names.VERDICTS, verdict.guardrail, verdict.origin, verdict.action, by=verdict.findings)


def _retrieve(keeping: asyncio.Future[Row]) -> None:
    """So that an error is not reported as forgotten where its caller has left."""
    if not keeping.cancelled():
        keeping.exception()


def _clean(filename: str) -> str:
    """The name without folders and control characters.

    Raises:
        InvalidRequest: too long, or nothing is left.
    """
    name = "".join(character for character in filename if character.isprintable())
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    if not name or len(name) > _MOST_NAME_CHARACTERS:
        raise InvalidRequest(f"The file's name must have 1 to {_MOST_NAME_CHARACTERS} characters.", param="file")
    return name
