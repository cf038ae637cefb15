"""`tidegate ingest` through a gateway and a knowledge service, as a process: what is brought in, and what is told."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.knowledge_stand import Knowledge
from tests.stand import Fake, Gateway

PAN = "4111 1111 1111 1111"


@pytest.fixture(scope="module")
def desk(fake: Fake, knowledge: Knowledge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("ingest"), [fake.url], settings=knowledge.gateway_settings)
    yield made
    made.process.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "papers"
    (made / "night").mkdir(parents=True)
    (made / "tides.md").write_text("# Tides\n\nSpring tide follows the full moon by two days.")
    (made / "night" / "duty.txt").write_text("At night the duty officer decides.")
    (made / ".secret.md").write_text("not for anybody")
    return made


def ingest(desk: Gateway, *argv: object, key: str | None = None) -> tuple[int, str]:
    env = {"OPENAI_BASE_URL": f"{desk.url}/v1", "OPENAI_API_KEY": key or desk.key, "COLUMNS": "300", "PATH": ""}
    command = [sys.executable, "-m", "tidegate.cli", "ingest", *map(str, argv)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def names_in(desk: Gateway, store: str) -> list[str]:
    with OpenAI(base_url=f"{desk.url}/v1", api_key=desk.key, max_retries=0) as client:
        found = next(item for item in client.vector_stores.list() if item.name == store)
        files = client.vector_stores.files.list(vector_store_id=found.id)
        return sorted(str((entry.attributes or {})["source"]) for entry in files)


def test_folders_are_brought_in_and_again_only_what_has_changed(desk: Gateway, folder: Path) -> None:
    assert ingest(desk, folder, "--store", "papers")[1].endswith("2 added, 0 replaced, 0 unchanged, 0 failed\n")
    assert names_in(desk, "papers") == ["night/duty.txt", "tides.md"]
    assert ingest(desk, folder, "--store", "papers")[1].endswith("0 added, 0 replaced, 2 unchanged, 0 failed\n")
    (folder / "tides.md").write_text("# Tides\n\nNeap tide follows the half moon.")
    code, told = ingest(desk, folder, "--store", "papers")
    assert code == 0 and told.endswith("0 added, 1 replaced, 1 unchanged, 0 failed\n")
    assert names_in(desk, "papers") == ["night/duty.txt", "tides.md"]


def test_what_an_ended_run_left_twice_is_tidied_up(desk: Gateway, folder: Path) -> None:
    ingest(desk, folder / "tides.md", "--store", "twice")
    with OpenAI(base_url=f"{desk.url}/v1", api_key=desk.key, max_retries=0) as client:
        store = next(item for item in client.vector_stores.list() if item.name == "twice")
        file = client.files.create(file=("tides.md", b"an older state"), purpose="assistants")
        client.vector_stores.files.create(
            store.id, file_id=file.id, attributes={"source": "tides.md", "sha256": "older"}
        )
    assert names_in(desk, "twice") == ["tides.md", "tides.md"]
    assert ingest(desk, folder / "tides.md", "--store", "twice")[1].endswith("1 unchanged, 0 failed\n")
    assert names_in(desk, "twice") == ["tides.md"]


def test_files_that_fail_are_told_with_the_reason_and_the_others_come_in(desk: Gateway, folder: Path) -> None:
    (folder / "card.md").write_text(f"the card {PAN}")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / "empty.md").write_bytes(b"")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    code, told = ingest(desk, folder, "--store", "mixed")
    assert code == 1 and told.endswith("2 added, 0 replaced, 0 unchanged, 4 failed\n")
    for name, reason in (
        ("card.md", "payment card number"),
        ("photo.jpg", "Files ending in '.jpg' are not read here"),
        ("empty.md", "The file is empty"),
        ("broken.pdf", "cannot be read"),
    ):
        assert any(name in line and reason in line for line in told.splitlines()), (name, told)
    assert PAN not in told


def test_what_cannot_be_done_is_said_in_a_line(desk: Gateway, folder: Path, tmp_path: Path) -> None:
    assert "does not exist" in ingest(desk, tmp_path / "nothing", "--store", "x")[1]
    (tmp_path / "bare").mkdir()
    assert "there are no files in" in ingest(desk, tmp_path / "bare", "--store", "x")[1]
    code, told = ingest(desk, folder, "--store", "x", key="tg-wrong")
    assert code == 2 and "Traceback" not in told and "API key" in told
    away = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "k", "PATH": ""}
    command = [sys.executable, "-m", "tidegate.cli", "ingest", str(folder), "--store", "x"]
    done = subprocess.run(command, env=away, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "cannot be reached" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
