"""What a parser makes of a document, and what a chunk of it is. Spans are characters of `ParsedDocument.text`."""

from typing import Protocol

from msgspec import Struct


class Section(Struct, frozen=True, array_like=True):
    """A stretch of text that belongs together: a page, or what stands under a heading."""

    start: int
    end: int
    page: int | None = None
    """Counted from 1."""
    heading: str | None = None
    """From the outermost heading inwards, joined by ` › `."""


class ParsedDocument(Struct, frozen=True):
    """The text of a document and its sections, in order and not overlapping."""

    text: str
    sections: list[Section]


class Chunk(Struct, frozen=True, array_like=True):
    """A piece of a document that is embedded and found as one; `text` is exactly `document.text[start:end]`."""

    start: int
    end: int
    page: int | None
    heading: str | None
    text: str

    def shown(self) -> str:
        """What is embedded: the text below its heading."""
        return f"{self.heading[-150:]}\n{self.text}" if self.heading else self.text


class CannotRead(Exception):
    """A document cannot be read; the message says why and holds nothing of the document."""


class Parser(Protocol):
    """Reads one kind of documents."""

    suffixes: tuple[str, ...]
    """File name endings, lower case, with the dot."""
    media_type: str

    def parse(self, data: bytes) -> ParsedDocument:
        """The text of `data`. Runs in a process of its own, limited in time and memory.

        Raises:
            CannotRead: it is not such a document, or has no text.
        """
        ...


HEADING_JOINT = " › "


class TextBuilder:
    """Collects a document's text block by block and keeps track of headings and pages."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[tuple[int, str]] = []
        self._page: int | None = None
        self._began = 0
        self._sections: list[Section] = []

    def heading(self, level: int, title: str) -> None:
        """A heading of `level` (1 is outermost): a new section begins with it."""
        self._close()
        title = " ".join(title.split())[:200]
        self._headings = [item for item in self._headings if item[0] < level]
        if title:
            self._headings.append((level, title))
            self.block(title)

    def page(self, number: int) -> None:
        """A new page, and with it a new section, begins."""
        self._close()
        self._page = number

    def block(self, text: str) -> None:
        """A paragraph."""
        text = text.strip()
        if text:
            self._parts.append(text + "\n\n")
            self._length += len(text) + 2

    def document(self) -> ParsedDocument:
        """Everything so far.

        Raises:
            CannotRead: there was no text.
        """
        self._close()
        text = "".join(self._parts)
        if not text.strip():
            raise CannotRead("it holds no text; a scanned document must be put through OCR first")
        return ParsedDocument(text, self._sections)

    def _close(self) -> None:
        if self._length > self._began:
            heading = HEADING_JOINT.join(title for _, title in self._headings) or None
            self._sections.append(Section(self._began, self._length, self._page, heading))
        self._began = self._length
