"""Cuts a parsed document into chunks: inside sections, at paragraph or sentence ends where possible, with exact spans.

Sizes are tokens of the embedder, so no chunk is longer than what it reads.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator

from msgspec import Struct

from rag.document import Chunk, ParsedDocument, Section

MOST_TOKENS = 200
"""The embedder reads 256 tokens: this many of the text, the rest for its heading."""
MAX_CHARACTERS = 4_000
"""A long run without spaces is one token; what is searched and screened as one must stay small all the same."""
_STRETCH = 50_000
_PIECE = re.compile(r".+?(?:\n{2,}|(?<=[.!?;:])\s+|\n(?=\s*(?:[-*#|]|\d+[.)]))|\Z)", re.DOTALL)

TokenStarts = Callable[[str], list[int]]
"""Where each token of a text begins, in characters."""


class Chunking(Struct, frozen=True):
    """How documents are cut."""

    max_tokens: int = 160
    overlap_tokens: int = 32


def chunks_of(document: ParsedDocument, how: Chunking, starts_of: TokenStarts) -> Iterator[Chunk]:
    """The chunks of `document` in order; every character that is not white space is in at least one."""
    for section in document.sections:
        for began, ended in _stretches(document.text, section):
            text = document.text[began:ended]
            for start, end in _spans(text, starts_of(text), how):
                if text[start:end].strip():
                    yield _chunk(document.text, section, began + start, began + end)


def _stretches(text: str, section: Section) -> Iterator[tuple[int, int]]:
    """The section in parts that take milliseconds each, so that no other work waits long."""
    start = section.start
    while section.end - start > _STRETCH:
        end = start + _STRETCH
        end = max(text.rfind("\n", start + 1, end), text.rfind(" ", start + _STRETCH // 2, end)) + 1 or end
        yield start, end
        start = end
    yield start, section.end


def _spans(text: str, starts: list[int], how: Chunking) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk in `text`."""
    pieces = [
        part
        for match in _PIECE.finditer(text)
        for piece in _cut(match.span(), starts, how.max_tokens)
        for part in _short(piece)
    ]
    first = 0
    while first < len(pieces):
        last = first
        while last + 1 < len(pieces) and _fits(starts, pieces[first][0], pieces[last + 1][1], how):
            last += 1
        yield pieces[first][0], pieces[last][1]
        if last + 1 == len(pieces):
            return
        first = _overlap(pieces, starts, how, first, last)


def _overlap(pieces: list[tuple[int, int]], starts: list[int], how: Chunking, first: int, last: int) -> int:
    """Where the chunk after `first … last` begins: with the last pieces of it, as far as overlap and size allow."""
    again = last + 1
    while again - 1 > first:
        start = pieces[again - 1][0]
        fits = _fits(starts, start, pieces[last + 1][1], how)
        if not fits or _tokens(starts, start, pieces[last][1]) > how.overlap_tokens:
            break
        again -= 1
    return again


def _cut(span: tuple[int, int], starts: list[int], most: int) -> Iterator[tuple[int, int]]:
    """A piece that is too long for one chunk, cut between tokens."""
    start, end = span
    tokens = starts[bisect_left(starts, start) : bisect_left(starts, end)]
    cuts = tokens[most::most]
    for cut in cuts:
        yield start, cut
        start = cut
    yield start, end


def _short(span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """A piece, cut where it has too many characters."""
    start, end = span
    while end - start > MAX_CHARACTERS:
        yield start, start + MAX_CHARACTERS
        start += MAX_CHARACTERS
    yield start, end


def _fits(starts: list[int], start: int, end: int, how: Chunking) -> bool:
    return end - start <= MAX_CHARACTERS and _tokens(starts, start, end) <= how.max_tokens


def _tokens(starts: list[int], start: int, end: int) -> int:
    return bisect_left(starts, end) - bisect_left(starts, start)


def _chunk(text: str, section: Section, start: int, end: int) -> Chunk:
    """Without white space at its ends."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end = max(start, end - (len(piece) - len(piece.rstrip())))
    return Chunk(start, end, section.page, section.heading, text[start:end])
