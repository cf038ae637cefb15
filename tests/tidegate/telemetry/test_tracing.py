"""W3C trace context in and out."""

import pytest

from tidegate.telemetry.tracing import Tracing, parse_traceparent, traceparent

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_context_comes_in_and_goes_out() -> None:
    tracing = Tracing("test", 1.0, [])
    span = tracing.start("x", parse_traceparent(GOOD))
    assert traceparent(span).startswith(b"00-0af7651916cd43dd8448eb211c80319c-")
    tracing.close()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"00-0af7651916cd43dd8448eb211c8031zz-b7ad6b7169203331-01",
        GOOD + b"-extra",
        b"00-0af7651916cd43dd8448eb211c8_319c-b7ad6b7169203331-01",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01",
    ],
)
def test_a_malformed_header_begins_a_new_trace(value: bytes | None) -> None:
    assert parse_traceparent(value) is None
