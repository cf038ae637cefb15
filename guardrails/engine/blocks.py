"""Scans a long text block by block, so that neither time nor memory of one step grows with it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from guardrails.engine.interfaces import Scan, Span, as_spans

BLOCK_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Block:
    """What one step found; positions count from the beginning of the whole text."""

    findings: tuple[Span, ...]
    """In order, none reported before."""
    open_from: int
    keep_from: int


def each_block(scan: Callable[[str, bool], Scan], text: str, final: bool) -> Iterator[Block]:
    """Steps through `text`; `scan` is a guardrail's, and is given the end of one block again with the next.

    The findings are those of one scan of the whole text. A finding that overlaps the one before it is cut short.
    """
    start = reported = end = 0
    while end < len(text) or end == 0:
        end = min(len(text), end + BLOCK_CHARS)
        last = end == len(text)
        seen = scan(text[start:end], final and last)
        new = seen.findings
        if new:
            if start:
                new = as_spans([(first + start, after + start) for first, after in new if after + start > reported])
            if new and new[0].start < reported:
                new = (Span(reported, new[0].end), *new[1:])
            reported = new[-1].end if new else reported
        yield Block(new, seen.open_from + start, seen.keep_from + start)
        start += seen.keep_from
        if last:
            return
