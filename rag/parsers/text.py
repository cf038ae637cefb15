"""Document parser `text`: plain text in UTF-8."""

from pydantic import BaseModel, ConfigDict

from rag.document import CannotRead, ParsedDocument, Section


class Config(BaseModel):
    """Options of `type: text`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "Text":
    """The parser."""
    return Text()


class Text:
    """The whole file is one section."""

    suffixes = (".txt", ".text", ".log")
    media_type = "text/plain"

    def parse(self, data: bytes) -> ParsedDocument:
        """See `Parser.parse`."""
        text = decode(data)
        return ParsedDocument(text, [Section(0, len(text))])


def decode(data: bytes) -> str:
    """`data` as text, without a byte order mark.

    Raises:
        CannotRead: not UTF-8, or empty.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CannotRead(f"it is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise CannotRead("it holds no text")
    return text.replace("\x00", " ")
