"""The usage journal: files mapped into memory, and what a kill or a full disk leaves of them."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.ledger.journal import Journal, parse, recover, segments, unread, whole_lines
from tidegate.errors import JournalFull

SEGMENT = 65_536

WRITER = """
import sys
from pathlib import Path
from gateway.ledger.journal import Journal
journal = Journal(Path(sys.argv[1]), 65536)
journal.open()
for number in range(1_000_000):
    journal.end({"request_id": f"req_{number}", "filler": "x" * 200})
    print(number, flush=True)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, SEGMENT)
    journal.open()
    yield journal
    journal.close()


def ids(folder: Path) -> list[str]:
    rows = [parse(line) for path in segments(folder) for line in whole_lines(path.read_bytes())]
    return [row["request_id"] for row in rows if row]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow: as on a full disk, what is reserved already can still be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_killed_process_loses_no_line_it_has_written(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [next(writer.stdout) for _ in range(2_000)]
        writer.send_signal(signal.SIGKILL)
        said += list(writer.stdout)
    found = ids(tmp_path)
    whole = [line for line in said if line.endswith("\n")]
    assert len(segments(tmp_path)) > 5
    assert found == [f"req_{number}" for number in range(len(found))] and len(found) >= len(whole)
    assert segments(tmp_path)[-1].stat().st_size == SEGMENT, "a killed process leaves what it reserved"
    after = Journal(tmp_path, SEGMENT)
    after.open()
    after.end({"request_id": "after"})
    after.close()
    assert ids(tmp_path) == [*found, "after"]


def test_files_are_cut_to_their_text_when_they_end(journal: Journal) -> None:
    for number in range(500):
        journal.end({"request_id": f"req_{number}", "filler": "x" * 300})
    *ended, last = segments(journal.directory)
    assert ended and all(b"\0" not in path.read_bytes() for path in ended)
    assert last.stat().st_size == SEGMENT and last.read_bytes().endswith(b"\0")
    assert unread(last, 0) == len(last.read_bytes().rstrip(b"\0"))
    journal.close()
    assert b"\0" not in last.read_bytes() and unread(last, 0) == last.stat().st_size
    assert ids(journal.directory) == [f"req_{number}" for number in range(500)]
    assert {path.name for path in journal.directory.iterdir()} == {"lock", *(path.name for path in [*ended, last])}


@pytest.mark.parametrize(
    "torn",
    [
        b'b{"request_id":"torn"',
        b'b{"request_id":"torn"}',
        b'\0{"request_id":"torn"}\n',
        b'b{"requ\0\0\0\0\0\0:"torn"}\n',
        b'b{"request_id":"torn"}\0',
    ],
)
def test_a_line_that_a_kill_has_torn_anywhere_is_no_line(journal: Journal, torn: bytes) -> None:
    journal.begin({"request_id": "begun"})
    (segment,) = segments(journal.directory)
    whole = unread(segment, 0)
    with segment.open("r+b") as file:
        file.seek(whole)
        file.write(torn)
    assert ids(journal.directory) == ["begun"]
    again = Journal(journal.directory / "again", SEGMENT)
    again.open()
    segment.rename(again.directory / segment.name)
    assert recover(again) == 1
    again.close()


def test_a_line_longer_than_a_file_has_a_file_of_its_own(journal: Journal) -> None:
    for length in (10, SEGMENT - 100, 3 * SEGMENT, 10):
        journal.begin({"request_id": "req", "filler": "x" * length})
        journal.end({"request_id": "req", "filler": "x" * length})
    assert len(ids(journal.directory)) == 8


def test_on_a_full_disk_nothing_more_begins_but_what_began_can_end(journal: Journal) -> None:
    row = {"filler": "x" * 300}
    with full_disk():
        begun = 0
        with pytest.raises(JournalFull):
            while begun < 1_000:
                journal.begin(row | {"request_id": f"req_{begun}"})
                begun += 1
        assert begun > 100
        for number in range(20):
            journal.end(row | {"request_id": f"req_{number}"})
        assert {path.name for path in journal.directory.iterdir()} == {"lock", "00000001.jsonl"}
        with pytest.raises(JournalFull):
            journal.begin(row | {"request_id": "refused"})
        assert journal.trouble() == "File too large"
        with pytest.raises(OSError, match="too large"):
            for _ in range(1_000):
                journal.end(row | {"request_id": "more than there was room for"})
    assert journal.trouble() is None
    journal.begin(row | {"request_id": "later"})
    assert ids(journal.directory)[-1] == "later" and "refused" not in ids(journal.directory)
