"""The shortcut for usual events: it says what decoding would say, or nothing."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tidegate.wire.openai import decode_chunk
from tidegate.wire.shape import EventShape, shape_of
from tidegate.wire.sse import data_of


def event(text: str, *, ascii_only: bool = True, completion: bool = False, **more: object) -> bytes:
    said = {"text": text} if completion else {"delta": {"content": text}}
    chunk = {"id": "c", "model": "m", "choices": [{"index": 0, **said, "finish_reason": None, **more}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=ascii_only).encode() + b"\n\n"


def learn(first: bytes) -> EventShape | None:
    return shape_of(first, decode_chunk(data_of(first)))


@given(st.text(max_size=20), st.booleans(), st.booleans())
def test_a_text_it_gives_is_the_text_that_decoding_gives(text: str, ascii_only: bool, completion: bool) -> None:
    shape = learn(event("Hello", completion=completion))
    assert shape is not None
    try:
        later = event(text, ascii_only=ascii_only, completion=completion)
    except UnicodeEncodeError:
        return
    got = shape.text_of(later)
    if got is not None:
        choice = decode_chunk(data_of(later)).choices[0]
        assert got == text == (choice.text if completion else choice.delta and choice.delta["content"])


def test_plain_words_take_the_shortcut() -> None:
    shape = learn(event("Hello"))
    assert shape is not None and shape.text_of(event(" world")) == " world"


def test_anything_else_does_not() -> None:
    shape = learn(event("Hello"))
    assert shape is not None
    for other in (
        event('a "quoted" word'),
        event("a\\b"),
        event("line\nend"),
        event("x", finish_reason="stop"),
        event(""),
        b"data: [DONE]\n\n",
        b": keep-alive\n\n",
        shape.before + b'x","tool_calls":[{"index":0}],"y":"' + shape.after,
        shape.before + b"\xff" + shape.after,
        shape.before[:-5] + shape.after,
    ):
        assert shape.text_of(other) is None, other


def test_a_shape_is_not_learnt_from_what_is_ambiguous() -> None:
    assert learn(event("c")) is None  # the id reads the same
    assert learn(event("stop", finish_reason="stop")) is None
    assert learn(event("Hello", logprobs={"content": [{"token": "Hello"}]})) is None
    assert learn(event("caf\u00e9")) is None  # written as an escape
    elsewhere = b'data: {"id":"caf\xc3\xa9","choices":[{"index":0,"delta":{"content":"caf\\u00e9"}}]}\n\n'
    assert learn(elsewhere) is None
    tool = {"choices": [{"index": 0, "delta": {"content": "a", "tool_calls": []}}]}
    assert learn(b"data: " + json.dumps(tool).encode() + b"\n\n") is None
