"""What is known of a request's JSON without decoding it as a whole."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.tidegate.wire.test_skim import JSONS, TEXTS, depth
from tidegate.wire.request import is_deeper_than, spans_of


@given(JSONS, st.booleans(), st.integers(0, 6), st.sampled_from(["", " ", "\n\t"]))
def test_depth_is_that_of_the_decoded_value(value: Any, escaped: bool, most: int, space: str) -> None:
    raw = json.dumps(value, ensure_ascii=escaped, separators=(space + "," + space, space + ":" + space)).encode()
    assert is_deeper_than(raw, most) == (depth(value) > most)


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 5))
def test_depth_goes_on_over_the_borders_of_windows(before: int, inside: int, most: int) -> None:
    texts = ["[{\\"] * before
    value = [*texts, [[["x" * inside, *texts[:600]]]], "]" * 70_000, [[]]]
    assert is_deeper_than(json.dumps(value).encode(), most) == (most < 4)


@given(st.dictionaries(TEXTS, JSONS, max_size=5), st.booleans(), st.sampled_from(["", " ", "\r\n"]))
def test_spans_are_those_of_the_outermost_values(fields: dict[str, Any], escaped: bool, space: str) -> None:
    separators = (space + "," + space, space + ":" + space)
    raw = space.encode() + json.dumps(fields, ensure_ascii=escaped, separators=separators).encode()
    spans = spans_of(raw)
    assert spans is not None
    assert {name: json.loads(raw[start:end]) for name, (start, end) in spans.items()} == fields


@given(st.dictionaries(TEXTS, JSONS, min_size=1, max_size=4), st.data())
def test_a_name_that_occurs_twice_has_no_span(fields: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(fields)))
    again = json.dumps({name: data.draw(JSONS)}, ensure_ascii=data.draw(st.booleans()))
    raw = json.dumps(fields)[:-1] + "," + again[1:]
    assert spans_of(raw.encode()) is None
    first = again[:-1] + "," + json.dumps(fields)[1:]
    assert spans_of(first.encode()) is None
