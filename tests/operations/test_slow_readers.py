"""Readers that take almost nothing of a fast stream: memory stays bounded, and nobody else notices."""

import selectors
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest

from tests.gateway.test_relay import resident_mb
from tests.operations.cancellation import request_bytes
from tests.stand import STREAM_HEAD, Fake, chat_chunk, chunked, sse, wait_until

pytestmark = pytest.mark.services
READERS = 200


def test_two_hundred_slow_readers_are_held_in_bounded_memory(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway()
    event = chunked(sse(*[chat_chunk("x" * 1000)] * 40))
    fake.script("flood", {"send": STREAM_HEAD}, *[{"send": event}] * 200)
    body = {"model": "m", "stream": True, "messages": [], "fake_script": "flood"}
    fake.forget()
    before, peak, taken = resident_mb(gateway), 0.0, 0
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(READERS):
            reader = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(request_bytes(gateway, "/v1/chat/completions", body))
            selector.register(reader, selectors.EVENT_READ)
        wait_until(lambda: fake.truth()["open_requests"] == READERS, 10, "all streams to be open")
        for _ in range(20):
            taken += sum(len(key.fileobj.recv(1024)) for key, _ in selector.select(0))  # type: ignore[union-attr]
            peak = max(peak, resident_mb(gateway))
            time.sleep(0.1)
        assert gateway.chat(max_tokens=1).elapsed.total_seconds() < 1
        assert fake.truth()["answered"] <= 1, "eight megabytes a stream cannot have gone anywhere"
    assert taken > READERS * 5_000 and peak - before < READERS * 0.6
    wait_until(lambda: fake.truth()["open_requests"] == 0, 5, "the streams to be cancelled")
