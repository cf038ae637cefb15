"""Document parser `markdown`."""

import pytest

from rag.document import CannotRead
from rag.parsers.markdown import Config, build

SOURCE = """Before any heading.

# One

Text of one.

```
# no heading
```

Two
---

### Three *deep*

Text of three.
"""


def test_headings_make_sections_and_spans_point_into_the_source() -> None:
    document = build(Config(), None).parse(SOURCE.encode())
    assert document.text == SOURCE
    shown = [(section.heading, SOURCE[section.start : section.end].strip()[:14]) for section in document.sections]
    assert shown == [
        (None, "Before any hea"),
        ("One", "# One\n\nText of"),
        ("One › Two", "Two\n---"),
        ("One › Two › Three *deep*", "### Three *dee"),
    ]
    assert document.sections[0].start == 0 and document.sections[-1].end == len(SOURCE)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_do_not_shift_spans(newline: str) -> None:
    source = newline.join(["intro", "", "# A", "a \x0b\u2028 b", "", "# B", "b"])
    document = build(Config(), None).parse(source.encode())
    assert [source[s.start : s.end].strip()[:3] for s in document.sections] == ["int", "# A", "# B"]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(CannotRead):
        build(Config(), None).parse(b"")
