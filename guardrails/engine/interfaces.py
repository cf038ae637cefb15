"""What a guardrail is. A plugin's `build` returns an object with these members; it holds no state between calls."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from tidegate.types import Action


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of the scanned text."""

    start: int
    end: int


def as_spans(pairs: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """The spans from and to these positions; faster than to call `Span` for each."""
    return tuple(map(_new_span, pairs))


_new_span = partial(tuple.__new__, Span)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a guardrail saw in a text that may still grow at its end."""

    findings: tuple[Span, ...]
    """Certain whatever comes next; in order, not overlapping."""
    open_from: int
    """Text from here on may become a finding and must be held back; the text's length if none."""
    keep_from: int
    """Text before this index need not be shown to the next scan."""


class Guardrail(Protocol):
    """One kind of finding and what to do about it."""

    name: str
    trigger: re.Pattern[str]
    """Nothing can begin in a text in which this is not found."""
    on_input: Action
    on_output: Action

    def may_match(self, raw: bytes) -> bool:
        """Cheap test on raw JSON: False only if no string or number inside can hold a finding."""
        ...

    def scan(self, text: str, *, final: bool) -> Scan:
        """Findings in `text`; `final` says that nothing follows. O(len(text))."""
        ...

    def mask(self, text: str, span: Span) -> str:
        """What stands in place of `text[span.start:span.end]`."""
        ...

    def refusal(self, findings: int) -> str:
        """The public message when a request is refused; says what and what to do, never the text."""
        ...
