"""Document parser `docx`: paragraphs and tables in order; heading styles make sections.

Tracked changes are read as if they were all accepted: what is inserted or moved here counts, what is deleted or moved away
does not.
"""

import re
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

from docx import Document
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph
from pydantic import BaseModel, ConfigDict

from rag.document import CannotRead, ParsedDocument, TextBuilder

_DROPPED = (qn("w:del"), qn("w:moveFrom"))
_KEPT = (qn("w:ins"), qn("w:moveTo"))
_HEADING = re.compile(r"(?:heading |title)(\d?)", re.IGNORECASE)


class Config(BaseModel):
    """Options of `type: docx`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "Docx":
    """The parser."""
    return Docx()


class Docx:
    """The document's body; headers, footers and comments are left out."""

    suffixes = (".docx",)
    media_type = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

    def parse(self, data: bytes) -> ParsedDocument:
        """See `Parser.parse`."""
        try:
            document = Document(BytesIO(data))
        except (BadZipFile, PackageNotFoundError, KeyError, ValueError) as error:
            raise CannotRead("it is not a DOCX file") from error
        _accept_changes(document.element.body)
        builder = TextBuilder()
        for item in document.iter_inner_content():
            if isinstance(item, Table):
                for row in item.rows:
                    builder.block(" | ".join(" ".join(cell.text.split()) for cell in row.cells))
            else:
                _add(builder, item)
        return builder.document()


def _accept_changes(body: Any) -> None:
    """Drop deleted content and lift inserted content out of its wrapper, where python-docx would not look."""
    for element in list(body.iter(*_DROPPED)):
        parent = element.getparent()
        if parent is not None and parent.tag == qn("w:trPr"):
            element = parent.getparent()  # the mark stands in the row's properties: the row is deleted
            parent = element.getparent()
        if parent is not None:
            parent.remove(element)
    for element in list(body.iter(*_KEPT)):
        parent = element.getparent()
        at = parent.index(element)
        parent[at : at + 1] = list(element)


def _add(builder: TextBuilder, paragraph: Paragraph) -> None:
    style = paragraph.style.name if paragraph.style is not None else None
    match = _HEADING.match(style or "")
    if match is None:
        builder.block(paragraph.text)
    else:
        builder.heading(int(match[1] or 1), paragraph.text)
