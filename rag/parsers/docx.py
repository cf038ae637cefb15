"""Document parser `docx`: paragraphs and tables in order; heading styles make sections."""

import re
from io import BytesIO
from zipfile import BadZipFile

from docx import Document
from docx.opc.exceptions import PackageNotFoundError
from docx.table import Table
from docx.text.paragraph import Paragraph
from pydantic import BaseModel, ConfigDict

from rag.document import CannotRead, ParsedDocument, TextBuilder

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
        builder = TextBuilder()
        for item in document.iter_inner_content():
            if isinstance(item, Table):
                for row in item.rows:
                    builder.block(" | ".join(" ".join(cell.text.split()) for cell in row.cells))
            else:
                _add(builder, item)
        return builder.document()


def _add(builder: TextBuilder, paragraph: Paragraph) -> None:
    style = paragraph.style.name if paragraph.style is not None else None
    match = _HEADING.match(style or "")
    if match is None:
        builder.block(paragraph.text)
    else:
        builder.heading(int(match[1] or 1), paragraph.text)
