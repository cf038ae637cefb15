"""Document parser `pdf`."""

from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from rag.document import CannotRead
from rag.parsers.pdf import Config, build

HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook"
DATA = (HANDBOOK / "incident_response.pdf").read_bytes()


def test_each_page_is_a_section() -> None:
    document = build(Config(), None).parse(DATA)
    assert [section.page for section in document.sections] == [1, 2]
    first, second = (document.text[section.start : section.end] for section in document.sections)
    assert "bridge 3" in first and "Arnhem" in second and "Arnhem" not in first


def test_a_password_is_named() -> None:
    writer, out = PdfWriter(clone_from=PdfReader(BytesIO(DATA))), BytesIO()
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(out)
    with pytest.raises(CannotRead, match="password"):
        build(Config(), None).parse(out.getvalue())


@pytest.mark.parametrize("data", [b"hello", DATA[:900]], ids=["other", "cut"])
def test_what_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(CannotRead):
        build(Config(), None).parse(data)


def test_a_scan_is_refused_with_a_hint() -> None:
    writer, out = PdfWriter(), BytesIO()
    writer.add_blank_page(200, 200)
    writer.write(out)
    with pytest.raises(CannotRead, match="OCR"):
        build(Config(), None).parse(out.getvalue())


def test_the_number_of_pages_is_limited() -> None:
    with pytest.raises(CannotRead, match="2 pages; 1 are allowed"):
        build(Config(max_pages=1), None).parse(DATA)
