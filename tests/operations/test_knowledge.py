"""The knowledge service killed, restarted and disturbed: jobs go on, the index ends the same, searches never wait long."""

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import qdrant_edge as edge
from sqlalchemy import select, update

from tests.bulk import OWNER, add_embedded
from tests.knowledge_stand import Knowledge
from tests.stand import Process, free_port, wait_until
from tidegate.config.settings import StoreSettings
from tidegate.store.database import Database
from tidegate.store.tables import store_files

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def children_of(pid: int) -> dict[int, str]:
    """Child processes and their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def points_of(service: Knowledge, store_id: str) -> list[tuple[str, int, int, str]]:
    """Everything that the current index holds of a store; the service must not run."""
    indexes = next(service.directory.glob("*/indexes"))
    shard = edge.EdgeShard.load(str(indexes / (indexes / "current").read_text()))
    found, offset = [], None
    while True:
        records, offset = shard.scroll(edge.ScrollRequest(limit=500, offset=offset, with_payload=True))
        payloads = [record.payload for record in records]
        found += [(p["file_id"], p["start"], p["end"], p["text"]) for p in payloads if p["store_id"] == store_id]
        if offset is None:
            shard.close()
            return sorted(found)


def long_text(seed: int, paragraphs: int) -> bytes:
    words = random.Random(seed)
    lines = (
        " ".join(words.choices(["tide", "lock", "barge", "pier", "quay", "gauge", "ebb", "flood"], k=30)) + "."
        for _ in range(paragraphs)
    )
    return "\n\n".join(lines).encode()


def test_jobs_survive_kill_9_and_end_in_the_same_index(tmp_path: Path, store_url: str | None) -> None:
    service = Knowledge(tmp_path, store_url=store_url)
    ids = [service.file_id(f"{n}.md", long_text(n, 60)) for n in range(6)]
    killed = service.store("killed", *ids, wait=False)
    moments = random.Random(7)
    for _ in range(4):
        time.sleep(moments.uniform(0.1, 1.5))
        children = [Path(f"/proc/{pid}") for pid in children_of(service.process.popen.pid)]
        service.process.kill()
        for child in children:
            wait_until(lambda child=child: not child.exists(), 5, "its children to end")
        service.start()
    shown = service.wait_done(killed)
    assert shown["file_counts"]["completed"] == 6, shown
    quiet = service.store("quiet", *ids)
    service.process.stop()
    assert len(points_of(service, killed)) > 60
    assert points_of(service, killed) == points_of(service, quiet)


def attempts_of(url: str, file_id: str, values: dict[str, int] | None = None) -> int:
    """How often a worker has begun with the file, as the database has it; sets it first if `values` are given."""

    async def look() -> int:
        database = Database(StoreSettings(url=url))
        async with database.transaction() as connection:
            if values:
                await connection.execute(update(store_files).values(**values))
            found = await connection.scalar(select(store_files.c.attempts).where(store_files.c.file_id == file_id))
        await database.close()
        return int(found or 0)

    return asyncio.run(look())


def test_a_file_that_ends_the_service_again_and_again_is_given_up(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/tidegate.db"
    service = Knowledge(tmp_path)
    good = service.file_id("good.md", b"a harmless note")
    bad = service.file_id("bad.md", long_text(1, 2000))
    store_id = service.store("s", bad, wait=False)
    path = f"/v1/vector_stores/{store_id}/files/{bad}"
    wait_until(lambda: service.call("GET", path).json()["progress"] > 0, 30, "the embedding to begin")
    service.process.stop()
    assert attempts_of(url, bad) == 0, "a stop in good order costs no attempt"
    service.start()
    wait_until(lambda: service.call("GET", path).json()["progress"] > 0, 30, "the embedding to begin again")
    service.process.kill()
    assert attempts_of(url, bad) == 1
    attempts_of(url, bad, {"attempts": 5})
    service.start()
    shown = wait_until(
        lambda: (found := service.call("GET", path).json())["status"] == "failed" and found, 30, "the end"
    )
    assert shown["last_error"]["message"] == "The service ended 5 times while it worked on this file."
    service.call("POST", f"/v1/vector_stores/{store_id}/files", json={"file_id": good})
    counts = service.wait_done(store_id)["file_counts"]
    assert (counts["completed"], counts["failed"], counts["in_progress"]) == (1, 1, 0)
    service.process.stop()


def test_searches_go_on_while_an_index_is_built_even_if_the_build_is_killed(tmp_path: Path) -> None:
    service = Knowledge(tmp_path)
    store_id = service.store("s", service.file_id("night.md", b"At night the duty officer decides."))
    service.process.stop()
    bulk = add_embedded(f"sqlite+aiosqlite:///{tmp_path}/tidegate.db", service.directory, store_id, 6000)
    service.start()

    def builder() -> int | None:
        return next((pid for pid, line in children_of(service.process.popen.pid).items() if "rag.build" in line), None)

    os.kill(wait_until(builder, 20, "the build to begin"), signal.SIGKILL)
    path, took = f"/v1/vector_stores/{store_id}/files/{bulk}", []
    while service.call("GET", path).json()["status"] != "completed":
        began = time.monotonic()
        assert "duty officer" in str(service.search(store_id, "who decides at night"))
        took.append(time.monotonic() - began)
    print(f"{len(took)} searches while 6,000 chunks were indexed, {max(took) * 1000:.0f} ms at most")
    assert len(took) > 20 and "index_build_failed" in service.process.text()
    service.process.stop()
    assert len(points_of(service, store_id)) == 6001 and OWNER.project == "demo"


def found(service: Knowledge, store_id: str) -> bool:
    """Whether the search answers; until the index is there again it says so instead of finding less."""
    body = {"vector_stores": [store_id], "query": "alpha", "max_results": 5}
    answer = service.call("POST", "/internal/search", json=body)
    assert answer.status_code == 200 or answer.json()["error"]["code"] == "index_unavailable"
    assert answer.status_code != 200 or answer.json()["data"]
    return answer.status_code == 200


def test_start_stop_and_a_second_process(tmp_path: Path) -> None:
    service = Knowledge(tmp_path)
    ports = {f"TIDEGATE_KNOWLEDGE__{name}": str(free_port()) for name in ("PORT", "MANAGEMENT_PORT")}
    second = Process([sys.executable, "-m", "rag", "--config", str(service.config)], tmp_path / "second.log", ports)
    assert second.popen.wait(30) == 1 and "is in use by another process" in second.text()
    store_id = service.store("s", service.file_id("a.md", b"alpha and omega"))
    assert service.process.stop() == 0
    indexes = next(service.directory.glob("*/indexes"))
    for path in (indexes / "00000001").rglob("segment.json"):
        path.write_text("broken")
    service.start()
    try:
        wait_until(lambda: found(service, store_id), 20, "the broken index to be built anew")
    finally:
        service.process.stop()
    shutil.rmtree(indexes)
    service.start()
    try:
        wait_until(lambda: found(service, store_id), 20, "the lost index to be built anew")
    finally:
        service.process.stop()


def test_missing_keys_are_named(tmp_path: Path) -> None:
    service = Knowledge(tmp_path)
    service.process.stop()
    (tmp_path / "public.json").unlink()
    again = Process([sys.executable, "-m", "rag", "--config", str(service.config)], tmp_path / "again.log")
    assert again.popen.wait(30) == 1
    assert (
        "tidegate knowledge cannot start: identity.public_keys_file" in again.text() and "tidegate init" in again.text()
    )
