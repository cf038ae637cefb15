"""The journal of a run: each step as it is taken, so that a run can be taken up again from it.

Content (arguments, outputs) stands in it only where the response itself is kept; otherwise only what happened.
"""

import json
from typing import Any

from tidegate.store.database import Database
from tidegate.store.documents import Owner
from tidegate.store.responses import add_event


class RunJournal:
    """One run's steps, in order."""

    def __init__(
        self, database: Database, owner: Owner, response_id: str, expires_at: float, *, keeps_content: bool
    ) -> None:
        self._database = database
        self._owner = owner
        self._response_id = response_id
        self._expires_at = expires_at
        self._keeps_content = keeps_content
        self._sequence = 0

    async def note(self, kind: str, facts: dict[str, Any], content: dict[str, Any] | None = None) -> None:
        """Writes a step down before what follows from it happens.

        Raises:
            StoreError: the database is away; the run must not go on unwritten.
        """
        self._sequence += 1
        data = {**facts, **(content or {})} if self._keeps_content else facts
        row = {"response_id": self._response_id, "sequence": self._sequence, "kind": kind, "data": json.dumps(data)}
        async with self._database.transaction() as connection:
            await add_event(connection, self._owner, {**row, "expires_at": self._expires_at})
