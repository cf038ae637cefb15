"""Document parser `html`."""

import pytest

from rag.document import CannotRead
from rag.parsers.html import Config, build

PAGE = b"""<!doctype html><html><head><title>T</title><style>p{}</style></head><body>
<nav>Menu</nav><h1>Top</h1><p>First <b>bold</b> text<br>next line.</p>
<script>alert(1)</script><!-- a comment --><p hidden>unseen</p><p style="display: none">unseen</p>
<h2>Below</h2><table><tr><td>a</td><td>b</td></tr></table><ul><li>one</li><li>two</li></ul>&lt;tag&gt; &amp; 4111</body></html>"""


def test_what_a_reader_sees_is_the_text() -> None:
    document = build(Config(), None).parse(PAGE)
    assert document.text.split() == [
        "Top",
        "First",
        "bold",
        "text",
        "next",
        "line.",
        "Below",
        "a",
        "b",
        "one",
        "two",
        "<tag>",
        "&",
        "4111",
    ]
    assert [s.heading for s in document.sections] == ["Top", "Top › Below"]
    assert "".join(document.text[s.start : s.end] for s in document.sections) == document.text


def test_deep_nesting_is_read_or_refused_but_never_breaks() -> None:
    deep = b"<div>" * 5000 + b"bottom" + b"</div>" * 5000
    try:
        assert "bottom" in build(Config(), None).parse(deep).text
    except CannotRead as error:
        assert "no text" in str(error)


def test_a_page_without_text_is_refused() -> None:
    with pytest.raises(CannotRead):
        build(Config(), None).parse(b"<html><script>x</script></html>")
