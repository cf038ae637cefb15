"""A request's body on its way out: changed where it must be, not copied where it need not be."""

from types import SimpleNamespace
from typing import cast

import pytest

from gateway.api import chat_completions
from gateway.body import prepare
from gateway.exchange import Exchange
from gateway.snapshot import Snapshot
from guardrails.offload.screener import Inspection
from tidegate.serving.call import Call
from tidegate.wire.request import read_request, spans_of
from tidegate.wire.skim import Skim

LARGE = b'{"model":"m","stream":true,"messages":[{"content":"' + b"a" * 5_000_000 + b'"}]}'


def prepared(body: bytes, upstream_model: str = "m", *, inspected: bool = False) -> Exchange:
    call = cast(Call, SimpleNamespace(path="/v1/chat/completions", fields={}))  # nothing is received or sent here
    exchange = Exchange(call, Snapshot(1, {}, {}, {}, {}), chat_completions.OPERATION)
    exchange.body, exchange.request = body, read_request(body, Skim(body))
    exchange.stream = bool(exchange.request.stream)
    if inspected:
        spans = spans_of(body)
        exchange.inspection = Inspection(exchange.request, None, None, body, [], False, spans, 0)
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


@pytest.mark.parametrize(
    ("sent", "becomes"),
    [
        (b'{"model": "m" ,"a":{"model":"m"}}', b'{"model": "other" ,"a":{"model":"m"}}'),
        (b' { "\\u006dodel":"m"}', b' { "\\u006dodel":"other"}'),
        (b'{"stream":true,"model":"m"}', b'{"stream_options":{"include_usage":true},"stream":true,"model":"other"}'),
        (
            b'{"stream":true,"stream\\u005foptions": null,"model":"m","x":1.50}',
            b'{"stream":true,"stream\\u005foptions": {"include_usage":true},"model":"other","x":1.50}',
        ),
        (
            b'{"model":"m","stream_options":{},"stream":true}',
            b'{"model":"other","stream_options":{"include_usage":true},"stream":true}',
        ),
    ],
)
def test_of_a_large_body_only_values_are_replaced(sent: bytes, becomes: bytes) -> None:
    assert b"".join(map(bytes, prepared(sent, "other", inspected=True).parts)) == becomes
    whole = prepared(LARGE, "other", inspected=True).parts
    assert all(isinstance(part, memoryview) or len(part) < 100 for part in whole)
