"""Parts of `tidegate up`: a failure is explained, and nothing is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stand import wait_until
from tidegate.local.processes import Part, PartFailed, stop_all, wait_for

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def part(folder: Path, code: str) -> Part:
    return Part(
        "thing", [sys.executable, "-c", code], folder / "thing.log", env=dict(os.environ), advice="turn it off and on"
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_ends_is_explained_with_its_log_and_advice(tmp_path: Path) -> None:
    failing = part(tmp_path, "import sys; print('no licence for this planet'); sys.exit(3)")
    with pytest.raises(PartFailed) as caught:
        wait_for({"http://127.0.0.1:9/": failing}, 10, lambda: None)
    for said in ("thing stopped (exit 3)", "no licence for this planet", "What to do: turn it off and on", "thing.log"):
        assert said in caught.value.message


def test_a_part_that_never_answers_is_given_up(tmp_path: Path) -> None:
    silent = part(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(PartFailed, match=r"did not answer at .* within 0 s"):
        wait_for({"http://127.0.0.1:9/": silent}, 0.3, lambda: None)
    stop_all([silent])
    assert not alive(silent.pid)


def test_a_stubborn_part_and_its_children_are_ended(tmp_path: Path) -> None:
    stubborn = part(tmp_path, STUBBORN)
    wait_until(lambda: (tmp_path / "thing.log").read_text().strip())
    child = int((tmp_path / "thing.log").read_text())
    began = time.monotonic()
    stop_all([stubborn], timeout_s=0.5)
    assert time.monotonic() - began < 5
    wait_until(lambda: not alive(stubborn.pid) and not alive(child))


def test_parts_end_even_if_their_starter_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from tidegate.local.processes import Part;"
        f"log = Path({str(tmp_path / 'x.log')!r}); argv = [sys.executable, '-c', 'import time; time.sleep(60)'];"
        "part = Part('x', argv, log, env=dict(os.environ), advice='');"
        "print(part.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    starter.stdout.close()
    wait_until(lambda: not alive(pid))
