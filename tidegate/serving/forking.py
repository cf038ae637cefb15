"""The process that forks a pool's workers: `python -m tidegate.serving.forking TARGET MEMORY MAX_JOBS MAX_GROWTH NICENESS`.

Standard input is a socket to the pool. The process imports TARGET (`module:function`) once; each worker is a fork of it and
costs a millisecond in place of an interpreter's start. A message with a descriptor asks for a worker that serves that socket,
a message without one names a worker to kill. No worker outlives this process, and this process not the pool's.

A job is two strings of bytes, `head` and `body`, and so is its result: `TARGET(head, body) -> (head, body)`.
"""

import contextlib
import gc
import importlib
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import BinaryIO, NamedTuple

from tidegate.serving.children import die_with_parent

Handler = Callable[[bytes, bytes], tuple[bytes, bytes]]
JOB = struct.Struct(">II")
"""Lengths of a job's head and body."""
RESULT = struct.Struct(">B?II")
"""A `Status`, whether the worker ends now, lengths of head and body."""
_PAGE_BYTES = resource.getpagesize()


class Status(IntEnum):
    """What became of a job."""

    DONE = 0
    OUT_OF_MEMORY = 1
    DEFECT = 2
    """The handler raised; the head is the exception's type and place."""


class _WorkerLimits(NamedTuple):
    """Bounds of a worker, see `process_pool.PoolLimits`."""

    memory_bytes: int
    max_jobs: int
    max_growth_bytes: int
    niceness: int


def main() -> None:
    """Forks and kills until the pool's end of the socket is closed."""
    die_with_parent(signal.SIGKILL)
    limits = _WorkerLimits(*map(int, sys.argv[2:]))
    sys.stdout = sys.stderr
    handler = load(sys.argv[1])
    with socket.socket(fileno=os.dup(0)) as orders:
        os.close(0)
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker)
        gc.collect()
        gc.freeze()
        children: set[int] = set()
        while True:
            select.select([orders.fileno(), woken], [], [])
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _reap(children)
            if not select.select([orders.fileno()], [], [], 0)[0]:
                continue
            message, descriptors, _, _ = socket.recv_fds(orders, 32, 1)
            if not message:
                return
            if not descriptors:
                _kill(int(message), children)
                continue
            child = os.fork()
            if child == 0:
                orders.close()
                _become_worker(descriptors[0], handler, limits)
            os.close(descriptors[0])
            children.add(child)


def load(target: str) -> Handler:
    """The function named `module:function`."""
    module, _, name = target.partition(":")
    handler: Handler = getattr(importlib.import_module(module), name)
    return handler


def _reap(children: set[int]) -> None:
    for child in list(children):
        if os.waitpid(child, os.WNOHANG)[0]:
            children.discard(child)


def _kill(child: int, children: set[int]) -> None:
    """Kill a worker that has not been reaped: its number cannot be another process's."""
    if child in children:
        os.kill(child, signal.SIGKILL)


def _become_worker(descriptor: int, handler: Handler, limits: _WorkerLimits) -> None:
    code = 1
    try:
        die_with_parent(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.nice(limits.niceness)
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        serve(socket.socket(fileno=descriptor), handler, limits)
        code = 0
    except OSError:
        code = 0  # the pool has closed its end
    finally:
        os._exit(code)


def serve(channel: socket.socket, handler: Handler, limits: _WorkerLimits) -> None:
    """Run jobs one after another until the socket ends, `max_jobs` are done, or the process has grown."""
    source, jobs = channel.makefile("rb"), 0
    channel.sendall(struct.pack(">I", os.getpid()))
    base_bytes = _resident_bytes()
    while len(lengths := source.read(JOB.size)) == JOB.size:
        jobs += 1
        status, head, body = _result_of(source, lengths, handler)
        grown = _resident_bytes() - base_bytes > limits.max_growth_bytes
        ends = status is not Status.DONE or jobs >= limits.max_jobs or grown
        channel.sendall(RESULT.pack(status, ends, len(head), len(body)) + head)
        channel.sendall(body)
        if ends:
            return
        del head, body


def _result_of(source: BinaryIO, lengths: bytes, handler: Handler) -> tuple[Status, bytes, bytes]:
    head_size, body_size = JOB.unpack(lengths)
    try:
        head, body = source.read(head_size), source.read(body_size)
        if len(head) < head_size or len(body) < body_size:
            raise OSError("the pool has closed its end in the middle of a job")
        return Status.DONE, *handler(head, body)
    except MemoryError:
        return Status.OUT_OF_MEMORY, b"", b""
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - the pool's side reports it
        return Status.DEFECT, type(error).__name__.encode(), b""


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


if __name__ == "__main__":
    main()
