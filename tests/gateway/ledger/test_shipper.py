"""Carrying the journal into the database, while requests go on being written."""

import asyncio
import json
from pathlib import Path

from gateway.ledger.journal import Journal
from gateway.ledger.shipper import Shipper
from tests.tidegate.store.databases import database_of
from tidegate.config.settings import JournalSettings
from tidegate.store.usage import recent_usage
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Outcome, UsageSource


def row(number: int) -> dict[str, object]:
    text = {name: "x" for name in ("organisation", "project", "key_id", "model", "path")}
    counts = {"input_tokens": 1, "output_tokens": 1, "cached_tokens": 0, "started_at": float(number)}
    ended = {"stream": False, "outcome": Outcome.OK, "usage_source": UsageSource.REPORTED}
    return {"request_id": f"req-{number:05}", **text, **counts, **ended}


def test_a_shipment_carries_what_there_was_and_does_not_run_after_what_comes(tmp_path: Path) -> None:
    """Under load something always comes: a batch for every few rows would cost as much as the requests."""

    async def main() -> None:
        journal = Journal(tmp_path / "journal", 4_194_304)
        journal.open()
        written = 0

        def write() -> None:
            nonlocal written
            journal.end(row(written))
            written += 1

        async def go_on() -> None:
            while True:
                write()
                await asyncio.sleep(0)

        async with database_of("sqlite", tmp_path) as database:
            metrics = Metrics()
            shipper = Shipper(tmp_path / "journal", database, JournalSettings(), metrics, JsonLog("test", "critical"))
            for _ in range(700):  # more than one batch
                write()
            busy = asyncio.ensure_future(go_on())
            shipped = await shipper.ship()
            busy.cancel()
            assert shipped < 2 * 700 * len(json.dumps(row(0)))
            async with database.transaction() as connection:
                assert {f"req-{number:05}" for number in range(700)} <= {
                    found["request_id"] for found in await recent_usage(connection, 100_000)
                }
            await shipper.ship_rest()
            async with database.transaction() as connection:
                assert len(await recent_usage(connection, 100_000)) == written
        journal.close()

    asyncio.run(main())
