"""Document parser `docx`."""

from io import BytesIO
from pathlib import Path

import pytest
from docx import Document
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

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


RUN = "<w:r><w:t xml:space='preserve'>%s</w:t></w:r>"
GONE = "<w:r><w:delText xml:space='preserve'>%s</w:delText></w:r>"


def read(*blocks: str) -> str:
    """What the parser makes of a body of these XML blocks."""
    document, out = Document(), BytesIO()
    for block in blocks:
        tag, _, rest = block.partition(">")
        document.element.body.insert(len(document.element.body) - 1, parse_xml(f"{tag} {nsdecls('w')}>{rest}"))
    document.save(out)
    return build(Config(), None).parse(out.getvalue()).text


def test_tracked_changes_are_read_as_accepted() -> None:
    sentence = "".join(
        [
            RUN % "The fee is ",
            f"<w:ins w:id='1' w:author='A'>{RUN % 'not '}</w:ins>",
            f"<w:del w:id='2' w:author='A'>{GONE % 'always '}</w:del>",
            f"<w:moveFrom w:id='3' w:author='A'>{RUN % 'LEFT '}</w:moveFrom>",
            f"<w:moveTo w:id='4' w:author='A'>{RUN % 'waived '}</w:moveTo>",
            f"<w:ins w:id='5' w:author='A'><w:hyperlink w:anchor='x'>{RUN % 'here'}</w:hyperlink></w:ins>",
        ]
    )
    whole = f"<w:ins><w:p>{RUN % 'A paragraph of its own.'}</w:p></w:ins>"
    assert read(f"<w:p>{sentence}</w:p>", whole) == "The fee is not waived here\n\nA paragraph of its own.\n\n"


def test_tracked_changes_in_tables_are_read_as_accepted() -> None:
    def row(mark: str, text: str) -> str:
        return f"<w:tr><w:trPr>{mark}</w:trPr><w:tc><w:p>{text}</w:p></w:tc></w:tr>"

    added, removed = row("<w:ins w:id='1'/>", RUN % "new row"), row("<w:del w:id='2'/>", RUN % "old row")
    cell = row("", f"{RUN % 'do '}<w:ins w:id='3'>{RUN % 'not '}</w:ins>{RUN % 'pay'}")
    grid = "<w:tblPr/><w:tblGrid><w:gridCol/></w:tblGrid>"
    assert read(f"<w:tbl>{grid}{added}{removed}{cell}</w:tbl>") == "new row\n\ndo not pay\n\n"
