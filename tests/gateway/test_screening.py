"""Large requests are checked in processes apart: nobody else waits, and nothing is checked for nobody."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.stand import Fake, Gateway, wait_until

SLOW = '''
"""A guardrail of another distribution: it scans for ever, or needs memory for ever, where it is asked to."""
import re
from pydantic import BaseModel
from guardrails.engine.interfaces import Scan
from tidegate.types import Action

class Config(BaseModel):
    pass

def build(config, deps):
    return Slow()

class Slow:
    name, trigger = "slow", re.compile("SLOW|GREEDY")
    on_input, on_output = Action.REFUSE, Action.OFF

    def may_match(self, raw):
        return b"SLOW" in raw or b"GREEDY" in raw

    def scan(self, text, *, final):
        held = []
        while "SLOW" in text or "GREEDY" in text:
            held += [bytearray(10_000_000)] if "GREEDY" in text else []
        return Scan((), len(text), 0)

    def refusal(self, findings):
        return "slow"
'''
PROJECTS = [{"name": name, "all_models": True} for name in ("demo", "other")]


@pytest.fixture
def slow_gateway(own_gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds gateways whose policy has the guardrail above."""
    made = tmp_path / "plugin" / "slow-1.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1\n")
    (made / "entry_points.txt").write_text("[tidegate.guardrail]\nslow = slow_guardrail\n")
    (made.parent / "slow_guardrail.py").write_text(SLOW)
    monkeypatch.syspath_prepend(made.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(made.parent), os.environ.get("PYTHONPATH", "")]))

    def build(**screening: Any) -> Gateway:
        policy = {"name": "default", "guardrails": [{"type": "slow"}, {"type": "pan"}]}
        gateway: Gateway = own_gateway(policies=[policy], projects=PROJECTS, settings={"screening": screening})
        return gateway

    return build


def started_by(pid: int) -> set[int]:
    """The living processes that `pid` has started."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.add(int(entry.name))
    return found


def below(pid: int) -> set[int]:
    """As `started_by`, and what those have started."""
    return started_by(pid).union(*map(below, started_by(pid)))


def scanning(gateway: Gateway) -> set[int]:
    """Processes that check something: they serve jobs, and compute."""
    forkers = started_by(gateway.process.popen.pid)
    return {pid for pid in below(gateway.process.popen.pid) - forkers if seconds_of(pid) > 0.1}


def seconds_of(pid: int) -> float:
    """Processor time that a process has used."""
    with contextlib.suppress(OSError):
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def resident_bytes(gateway: Gateway) -> int:
    """Of a gateway and every process below it, pages that several share counted once."""
    total = 0
    for pid in {gateway.process.popen.pid} | below(gateway.process.popen.pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def large(text: str, size: int = 600_000) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text + " " + "a" * size}]}


@contextlib.contextmanager
def posting(gateway: Gateway, *texts: str, **options: Any) -> Iterator[list[Any]]:
    """Requests on their way, each in a thread; what has come back so far. Waits for all of them at the end."""
    answers: list[Any] = []

    def post(text: str) -> None:
        with contextlib.suppress(httpx.TransportError):  # where the gateway is killed
            answers.append(gateway.post(large(text), **options))

    threads = [threading.Thread(target=post, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join(30)


def send_only(gateway: Gateway, body: dict[str, Any]) -> socket.socket:
    """A request whose response is not read."""
    raw = json.dumps(body).encode()
    sender = socket.create_connection(("127.0.0.1", gateway.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
    sender.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw)
    return sender


def test_other_requests_are_served_while_ten_megabytes_of_digits_are_checked(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway(projects=PROJECTS)
    other, answers = gateway.known_key("other"), []
    hostile = large("4 " * 5_000_000, 0)
    sender = threading.Thread(target=lambda: answers.append(gateway.post(hostile)))
    sender.start()
    wait_until(lambda: scanning(gateway) or answers, 10, "the check")
    served = largest = 0
    while not answers and sender.is_alive():
        assert gateway.chat(headers={"authorization": f"Bearer {other}"}, max_tokens=1).status_code == 200
        served, largest = served + 1, max(largest, resident_bytes(gateway))
    sender.join()
    assert served > 5 and answers[0].status_code in (200, 400)
    assert largest < 300_000_000


def test_a_disconnect_ends_the_check(slow_gateway: Any) -> None:
    gateway = slow_gateway()
    sender = send_only(gateway, large("SLOW"))
    (pid,) = wait_until(lambda: scanning(gateway), 10, "the check")
    sender.close()
    wait_until(lambda: seconds_of(pid) == 0, 5, "the end of the process")
    assert gateway.chat(max_tokens=1).status_code == 200


def test_the_deadline_ends_the_check(slow_gateway: Any) -> None:
    gateway = slow_gateway()
    answer = gateway.post(large("SLOW"), headers={"x-tidegate-timeout-ms": "1500"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    wait_until(lambda: not scanning(gateway), 5, "the end of the process")


def test_a_check_that_needs_too_much_is_refused_and_the_next_is_done(slow_gateway: Any, fake: Fake) -> None:
    gateway = slow_gateway(timeout_s=1)
    for text, why in (("SLOW", "longer than the 1 s"), ("GREEDY", "more memory")):
        for size in (10_000, 600_000):
            error = gateway.post(large(text, size)).json()["error"]
            assert error["code"] == "request_too_complex" and why in error["message"]
    fake.forget()
    assert gateway.post(large("4111 1111 1111 1112")).status_code == 200
    assert gateway.post(large("4111 1111 1111 1111")).json()["error"]["code"] == "content_filter"
    assert len(fake.seen()) == 1 and fake.seen()[0]["body"] == json.dumps(large("4111 1111 1111 1112")).encode()


def test_a_process_that_is_killed_is_tried_once_more_and_then_told(slow_gateway: Any) -> None:
    gateway = slow_gateway()
    with posting(gateway, "SLOW") as answers:
        for _ in range(2):
            (pid,) = wait_until(lambda: scanning(gateway), 10, "the check")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: seconds_of(pid) == 0, 5, "its end")
        wait_until(lambda: answers, 5, "the error")
    assert (answers[0].status_code, answers[0].headers["x-should-retry"]) == (503, "true")
    assert gateway.post(large("fine")).status_code == 200


def test_one_projects_checks_do_not_hold_up_anothers(slow_gateway: Any) -> None:
    gateway = slow_gateway(timeout_s=3)
    other = gateway.known_key("other")
    with posting(gateway, "SLOW", "SLOW", "SLOW") as answers:
        wait_until(lambda: scanning(gateway), 10, "the check")
        assert gateway.post(large("fine"), key=other).status_code == 200
        assert answers == [], "while those are checked, or wait"
        gateway.process.stop()


def test_no_process_outlives_the_gateway(slow_gateway: Any) -> None:
    gateway = slow_gateway()
    with posting(gateway, "SLOW"):
        wait_until(lambda: scanning(gateway), 10, "the check")
        pids = below(gateway.process.popen.pid)
        gateway.process.kill()
    wait_until(lambda: not any(map(seconds_of, pids)), 5, "their end")
