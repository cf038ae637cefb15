"""What the tests' processes do."""

import os
import time

held: list[bytearray] = []


def run(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """`head` names what is done."""
    return b"", JOBS[head](body)


def run_and_show_process(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """As `run`, but the result's head is the process's number."""
    return b"%d" % os.getpid(), run(head, body)[1]


def spin(body: bytes) -> bytes:
    while True:
        pass


def die(body: bytes) -> bytes:
    os._exit(3)


def die_once(body: bytes) -> bytes:
    try:
        os.close(os.open(body, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return b"survived"
    os._exit(3)


def grow(body: bytes) -> bytes:
    held.append(bytearray(50_000_000))
    return b""


def wait(body: bytes) -> bytes:
    while not os.path.exists(body):
        time.sleep(0.005)
    return b""


JOBS = {
    b"echo": lambda body: body[::-1],
    b"fill": lambda body: b"x" * 10**9,
    b"spin": spin,
    b"die": die,
    b"die once": die_once,
    b"grow": grow,
    b"wait": wait,
}
