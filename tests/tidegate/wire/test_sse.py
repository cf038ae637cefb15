"""SSE framing: not a byte is lost or changed, wherever the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import UpstreamBroken
from tidegate.wire.sse import Splitter, data_of

LINES = st.sampled_from(["data: {}", "data:x", ": keep-alive", "event: e", "id: 1", "data: a b", "data"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, int]:
    """A valid stream and how many events it holds."""
    out, count = "", draw(st.integers(1, 6))
    for _ in range(count):
        end = draw(ENDS)
        out += "".join(line + end for line in draw(st.lists(LINES, min_size=1, max_size=4))) + end
    return out.encode(), count


@given(streams(), st.data())
def test_events_add_up_to_the_stream_wherever_it_is_cut(stream: tuple[bytes, int], data: st.DataObject) -> None:
    raw, _ = stream
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=8)))
    splitter, events = Splitter(1000), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        events += splitter.feed([raw[start:end]])
    assert b"".join(events) + splitter.rest == raw
    whole = Splitter(1000)
    assert list(whole.feed([raw])) == events and whole.rest == splitter.rest


def test_data_of_every_form() -> None:
    assert data_of(b"data: x\n\n") == b"x"
    assert data_of(b"data:x\n\n") == b"x"
    assert data_of(b"data: a\r\ndata: b\r\n\r\n") == b"a\nb"
    assert data_of(b"event: e\ndata: x\nid: 3\n\n") == b"x"
    assert data_of(b": keep-alive\n\n") == b""
    assert data_of(b"data:  two spaces\n\n") == b" two spaces"


def test_an_endless_event_is_refused() -> None:
    splitter = Splitter(100)
    with pytest.raises(UpstreamBroken):
        for _ in range(100):
            splitter.feed([b"data: no end "])
            splitter.check()
