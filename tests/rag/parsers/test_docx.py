"""Document parser `docx`."""

from pathlib import Path

import pytest

from rag.document import CannotRead
from rag.parsers.docx import Config, build

HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook"


def test_headings_and_tables_are_kept_in_order() -> None:
    document = build(Config(), None).parse((HANDBOOK / "settlement.docx").read_bytes())
    assert [section.heading for section in document.sections][-1] == "Settlement › Reserves"
    last = document.text[document.sections[-1].start :]
    assert last.index("Currency | Reserve") < last.index("SEK | 9,500,000") < last.index("Treasury refills")


@pytest.mark.parametrize("data", [b"hello", b"PK\x03\x04" + b"\0" * 60], ids=["other", "cut"])
def test_what_is_no_docx_is_refused(data: bytes) -> None:
    with pytest.raises(CannotRead, match="not a DOCX"):
        build(Config(), None).parse(data)
