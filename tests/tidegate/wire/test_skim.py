"""A look at JSON that does not decode it: it may say "maybe" too often, never "no" where it should not."""

import json
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.pan import CardNumbers, Config
from tidegate.config.resources import GUARDED_FIELDS
from tidegate.wire.openai import ALWAYS_LOOKED_AT, RARE_FIELDS
from tidegate.wire.skim import Skim, _split

TEXTS = st.text(st.sampled_from('ab"\\\n[{}]é\u2028:, model')) | st.sampled_from(
    ["model", "image_url", "data:x", "url"]
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts(item))]
    return (
        [text for item in value for text in texts(item)]
        if isinstance(value, list)
        else [value] * isinstance(value, str)
    )


@pytest.mark.parametrize(
    "beside", [[], ["a" * 17_000], ["x"] * 6_000, ["x" * 9] * 250], ids=["small", "long texts", "many texts", "more"]
)
@given(JSONS, st.booleans(), st.integers(0, 4))
def test_what_is_there_is_never_denied(beside: list[str], value: Any, escaped: bool, most: int) -> None:
    value = [*beside, value] if beside else value
    raw = json.dumps(value, ensure_ascii=escaped).encode()
    skim, found = Skim(raw), texts(value)
    assert skim.may_nest_deeper_than(most) or depth(value) <= most
    assert skim.may_repeat(b"model") or found.count("model") < 2
    assert skim.may_repeat_any([b'"url"', b'"model"']) or max(found.count("model"), found.count("url")) < 2
    assert skim.may_have(b"model") or "model" not in found
    assert skim.may_have_names_ending_in(b"url") or not any(text.endswith("url") for text in found)
    assert skim.may_hold(b"data:") or not any(text.startswith("data:") for text in found)


@pytest.mark.parametrize("name", sorted({*ALWAYS_LOOKED_AT, *RARE_FIELDS, *GUARDED_FIELDS}))
def test_a_name_is_seen_in_a_long_text_however_it_is_spelled(name: str) -> None:
    disguised = "".join(f"\\u{ord(char):04x}" for char in name)
    raw = f'{{"{name}":1,"x":"{"a" * 20_000}","{disguised}":2}}'.encode()
    assert Skim(raw).may_repeat_any([b'"%s"' % name.encode()])
    assert Skim(raw).may_have(name.encode()) and Skim(raw).may_have_names_ending_in(name[-3:].encode())
    assert not Skim(b'{"x":"' + b"\\u006d" + b"a" * 20_000 + b'"}').disguises


def test_disguises_count() -> None:
    assert Skim(rb'{"model":1,"\u006dodel":2}').may_repeat(b"model")
    assert Skim(rb'{"image_\u0075rl":2}').may_have_names_ending_in(b"url")


@given(JSONS)
def test_large_bodies_are_cut_at_the_same_places(value: Any) -> None:
    raw = json.dumps(["a" * 17_000, value, "\\u0075rl", "b" * 9]).encode()
    assert _split(raw) == raw.split(b'"')
    many = json.dumps(["x"] * 3000).encode()
    assert _split(many) is None and Skim(many).may_repeat(b"x")
    assert not Skim(many).may_have(b"y") and Skim(many).may_nest_deeper_than(0)


@pytest.mark.parametrize(
    ("raw", "large"),
    [
        (b'"' * 16_000, False),
        (b'"' * 17_000, True),
        (b"[{" * 8_500, True),
        (b'{"x":"' + b"a" * 250_000, False),
        (b'{"x":"' + b"[" * 250_000 + b'"}', False),
        (b'{"x":"' + b"a" * 250_000 + b'",' + b"[" * 9_000, True),
        (b'{"x":[' + b"1," * 9_000, True),
        (b'{"x":"' + b"a," * 9_000, False),
        (b'{"x":"' + b"a" * 500_000, False),
        (b'{"x":"' + b"a" * 300_000 + b'","y":1' * 600, True),
        (b'{"type":"text","text":"' + b"a" * 300_000, True),
        (b'{"type":"text","text":"' + b"a" * 100_000, False),
    ],
)
def test_a_text_is_dense_where_it_has_many_strings_or_values(raw: bytes, large: bool) -> None:
    assert Skim(raw).is_dense() == large


def test_a_long_text_says_nothing_of_the_structure() -> None:
    skim = Skim(json.dumps({"messages": [{"content": "[{ " * 10_000}]}).encode())
    assert not skim.may_nest_deeper_than(10)
    assert not skim.may_repeat(b"model")


def test_every_digit_shows_a_digit_when_it_is_escaped() -> None:
    """Why `CardNumbers.may_match` may count digits before it looks at escapes."""
    digits = [chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)) == "Nd"]
    assert len(digits) > 600
    assert all(any(char in "0123456789" for char in json.dumps(digit)) for digit in digits)
    pan = CardNumbers(Config())
    hidden = json.dumps({"x": "".join(chr(0x0660 + int(digit)) for digit in "4111111111111111")}).encode()
    assert pan.may_match(hidden) and not pan.may_match(b'{"x":"\\t 41111 \\u00e9"}')
