"""Document parser `html`: what a reader of the page would see, section by section under its headings."""

import re
import warnings

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, PageElement, PreformattedString
from pydantic import BaseModel, ConfigDict

from rag.document import ParsedDocument, TextBuilder

_UNSEEN = frozenset({"script", "style", "noscript", "template", "head", "svg", "iframe", "object", "nav", "form"})
_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|caption|d[dlt]|details|div|fieldset|figcaption|figure|footer|header|hr|html|li|main|"
    "[ou]l|p|pre|section|summary|table|tbody|t[dhr]|tfoot|thead|title"
)
_HEADING = re.compile(r"h[1-6]")
_HIDDEN = re.compile(r"(display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)


class Config(BaseModel):
    """Options of `type: html`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build(config: Config, deps: object) -> "Html":
    """The parser."""
    return Html()


class Html:
    """Visible text only: what is hidden on the page is not retrieved either."""

    suffixes = (".html", ".htm", ".xhtml")
    media_type = "text/html"

    def parse(self, data: bytes) -> ParsedDocument:
        """See `Parser.parse`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
            page = BeautifulSoup(data, "lxml")
        builder, words = TextBuilder(), list[str]()
        _walk(page, builder, words)
        _flush(builder, words)
        return builder.document()


def _walk(root: Tag, builder: TextBuilder, words: list[str]) -> None:
    """Depth first, without recursion: pages may be nested deeper than Python's stack."""
    stack: list[PageElement | str] = [root]
    while stack:
        item = stack.pop()
        if not isinstance(item, Tag):
            if item == "":
                _flush(builder, words)
            elif isinstance(item, NavigableString) and not isinstance(item, PreformattedString):
                words.append(str(item))
            continue
        if item.name in _UNSEEN or item.has_attr("hidden") or _HIDDEN.search(str(item.get("style", ""))):
            continue
        if _HEADING.fullmatch(item.name):
            _flush(builder, words)
            builder.heading(int(item.name[1]), item.get_text(" "))
            continue
        if item.name == "br":
            words.append("\n")
        if _BLOCKS.fullmatch(item.name):
            _flush(builder, words)
            stack.append("")  # flush again where the block ends
        stack.extend(reversed(item.contents))


def _flush(builder: TextBuilder, words: list[str]) -> None:
    lines = (" ".join(line.split()) for line in "".join(words).split("\n"))
    builder.block(" ".join(line for line in lines if line))
    words.clear()
