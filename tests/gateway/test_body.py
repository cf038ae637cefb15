"""A request's body on its way out: changed where it must be, not copied where it need not be."""

from types import SimpleNamespace
from typing import cast

import pytest

from gateway.api import chat_completions
from gateway.body import prepare
from gateway.exchange import Exchange
from gateway.snapshot import Snapshot
from tidegate.serving.call import Call
from tidegate.wire.request import read_request
from tidegate.wire.skim import Skim

LARGE = b'{"model":"m","stream":true,"messages":[{"content":"' + b"a" * 5_000_000 + b'"}]}'


def prepared(body: bytes, upstream_model: str = "m") -> Exchange:
    call = cast(Call, SimpleNamespace(path="/v1/chat/completions", fields={}))  # nothing is received or sent here
    exchange = Exchange(call, Snapshot(1, {}, {}, {}, {}), chat_completions.OPERATION)
    exchange.body, exchange.request = body, read_request(body, Skim(body))
    exchange.stream = bool(exchange.request.stream)
    prepare(exchange, upstream_model)
    return exchange


def test_what_need_not_change_is_the_very_body() -> None:
    body = LARGE.replace(b'"stream":true', b'"stream":false')
    assert prepared(body).parts == (body,) and prepared(body).parts[0] is body


def test_asking_for_usage_copies_nothing_of_the_body() -> None:
    before, rest = prepared(LARGE).parts
    assert isinstance(rest, memoryview) and rest.obj is LARGE
    assert bytes(before) + bytes(rest) == b'{"stream_options":{"include_usage":true},' + LARGE[1:]


@pytest.mark.parametrize("space", [b"", b" \n\t"])
def test_another_name_behind_the_door_changes_the_name_alone(space: bytes) -> None:
    body = space + b'{"x":1.50, "model" : "m","a":{"model":"m"},"u":"\xc3\xa9"}'
    (sent,) = prepared(body, "other").parts
    assert sent == b'{"x":1.50,"model":"other","a":{"model":"m"},"u":"\xc3\xa9"}'
