"""Document parser `pdf`: the text of each page; a section is a page."""

from io import BytesIO

from pydantic import BaseModel, ConfigDict, Field
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from rag.document import CannotRead, ParsedDocument, TextBuilder


class Config(BaseModel):
    """Options of `type: pdf`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_pages: int = Field(5000, ge=1, description="Most pages of one document")


def build(config: Config, deps: object) -> "Pdf":
    """The parser."""
    return Pdf(config.max_pages)


class Pdf:
    """Text as the file holds it; scanned pages have none."""

    suffixes = (".pdf",)
    media_type = "application/pdf"

    def __init__(self, max_pages: int) -> None:
        self._max_pages = max_pages

    def parse(self, data: bytes) -> ParsedDocument:
        """See `Parser.parse`."""
        if b"%PDF-" not in data[:1024]:
            raise CannotRead("it is not a PDF file")
        try:
            reader = PdfReader(BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                raise CannotRead("it is protected by a password")
            if len(reader.pages) > self._max_pages:
                raise CannotRead(f"it has {len(reader.pages)} pages; {self._max_pages} are allowed")
            builder = TextBuilder()
            for number, page in enumerate(reader.pages, 1):
                builder.page(number)
                builder.block(page.extract_text().replace("\x00", " "))
        except PyPdfError as error:
            raise CannotRead(f"it is damaged ({type(error).__name__})") from error
        return builder.document()
