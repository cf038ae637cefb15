"""Document parser `markdown`: the source itself is the text, so that spans point into the file; headings make sections."""

import re
from itertools import pairwise

from markdown_it import MarkdownIt
from pydantic import BaseModel, ConfigDict

from rag.document import HEADING_JOINT, ParsedDocument, Section
from rag.parsers.text import decode


class Config(BaseModel):
    """Options of `type: markdown`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "Markdown":
    """The parser."""
    return Markdown()


class Markdown:
    """CommonMark; a heading inside a code block is none."""

    suffixes = (".md", ".markdown")
    media_type = "text/markdown"

    def parse(self, data: bytes) -> ParsedDocument:
        """See `Parser.parse`."""
        text = decode(data)
        starts = [0, *(match.end() for match in re.finditer("\n", text))]
        sections: list[Section] = []
        path: list[tuple[int, str]] = []
        began = 0
        for line_number, level, title in _headings(text):
            _add(sections, text, began, starts[line_number], path)
            began = starts[line_number]
            path = [item for item in path if item[0] < level] + [(level, title)]
        _add(sections, text, began, len(text), path)
        return ParsedDocument(text, sections)


def _headings(text: str) -> list[tuple[int, int, str]]:
    """Line (from 0), level and title of every heading."""
    tokens = MarkdownIt("commonmark").parse(text.replace("\r", " "))
    found = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            found.append((token.map[0], int(token.tag[1]), " ".join(inline.content.split())[:200]))
    return found


def _add(sections: list[Section], text: str, start: int, end: int, path: list[tuple[int, str]]) -> None:
    if text[start:end].strip():
        sections.append(Section(start, end, None, HEADING_JOINT.join(title for _, title in path if title) or None))
