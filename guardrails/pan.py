"""Guardrail `pan`: payment card numbers (primary account numbers, ISO/IEC 7812).

A finding is a run of 12 to 19 digits in an issuer's range and of that issuer's length whose Luhn check holds. Digits may
be separated by up to three spaces, dashes or dots. Standing alone, a number is found in any grouping; inside a longer row
of numbers only one unbroken group, or groups as cards print them, count. UUIDs, hexadecimal ids and digests (32, 40 or 64
characters, a letter among them), decimal fractions and IBANs (whose own check digits must hold) are passed over.
"""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from guardrails.engine.interfaces import Scan, Span
from tidegate.types import Action

MIN_DIGITS, MAX_DIGITS = 12, 19
_SEPARATOR = (
    r"[ \t\u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff"  # spaces, also of no width
    r"\-\u00ad\u2010-\u2015\u2212\ufe58\ufe63\uff0d"  # dashes
    r".\u00b7\u2022\u2024\u2027\uff0e]"  # dots
)
_CHAIN = re.compile(rf"\d+(?:{_SEPARATOR}{{1,3}}\d+)*")
_OPEN_TAIL = re.compile(rf"{_SEPARATOR}{{0,3}}\Z")
_GROUP = re.compile(r"\d+")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
_HEX = r"(?<![0-9A-Za-z])(?=\d*[A-Fa-f])(?:[0-9A-Fa-f]{64}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{32})"
_HEX_ENDED, _HEX_SO_FAR = re.compile(_HEX + r"(?![0-9A-Za-z])"), re.compile(_HEX + r"(?=[^0-9A-Za-z])")
_FRACTION = re.compile(r"(?<![\d.])\d{1,3}\.\d+(?!\.?\d)")
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?(?![0-9A-Za-z])")
_UNFINISHED = re.compile(
    r"(?<![0-9A-Za-z])(?:[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){0,7}(?: ?[0-9A-Z]{0,4})?"
    r"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){0,3}[0-9A-Fa-f]{0,12}"
    r"|(?=[0-9A-Fa-f]*\d{12})(?=\d*[A-Fa-f])[0-9A-Fa-f]{13,64})\Z"
)  # the end of a text that may yet become an IBAN, a UUID or, where many digits stand in it, a hexadecimal id: 64 characters
_CONTEXT_CHARS = 96  # enough to see an id or a whole number to the left of the text that is still open

_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_ASCII_SEPARATORS = b" -."

# Issuer identification ranges as (first prefix, last prefix, lengths); prefixes of equal length.
_RANGES: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("4", "4", frozenset({13, 16, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),  # Mastercard 2-series
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),
    ("300", "305", frozenset(range(14, 20))),  # Diners Club
    ("3095", "3095", frozenset(range(14, 20))),
    ("36", "36", frozenset(range(14, 20))),
    ("38", "39", frozenset(range(14, 20))),
    ("3528", "3589", frozenset(range(16, 20))),  # JCB
    ("6011", "6011", frozenset(range(16, 20))),  # Discover
    ("644", "649", frozenset(range(16, 20))),
    ("65", "65", frozenset(range(16, 20))),
    ("62", "62", frozenset(range(16, 20))),  # UnionPay
    ("810", "817", frozenset(range(16, 20))),
    ("2200", "2204", frozenset(range(16, 20))),  # Mir
    ("9792", "9792", frozenset({16})),  # Troy
    ("508", "508", frozenset({16})),  # RuPay
    ("506099", "506198", frozenset({16, 18, 19})),  # Verve
    ("650002", "650027", frozenset({16, 18, 19})),
    ("5018", "5018", frozenset(range(12, 20))),  # Maestro
    ("5020", "5020", frozenset(range(12, 20))),
    ("5038", "5038", frozenset(range(12, 20))),
    ("5893", "5893", frozenset(range(12, 20))),
    ("6304", "6304", frozenset(range(12, 20))),
    ("6759", "6759", frozenset(range(12, 20))),
    ("6761", "6763", frozenset(range(12, 20))),
)

_PRINTED = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 4, 5), (4, 3, 3, 3), (4, 6, 5), (4, 6, 4)}
    | {(4, 5, 6), (6, 13), (4, 4, 4), (4, 4, 4, 1), (4, 4, 4, 2), (4, 4, 4, 3), (8, 8), (6, 4, 5), (6, 10)}
)
"""Groupings that cards and forms print; the only ones that count inside a longer row of numbers."""
_FIRST_GROUPS = frozenset(shape[0] for shape in _PRINTED)
_MOST_GROUPS = max(map(len, _PRINTED))


_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_OTHER_ESCAPE = re.compile(rb'\\[^n"]')


class Config(BaseModel):
    """Options of `type: pan`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_input: Literal["refuse", "mask", "off"] = Field("refuse", description="What happens to a request that holds one")
    on_output: Literal["refuse", "off"] = Field("refuse", description="Whether an answer is ended before one")


def build(config: Config, deps: object) -> "CardNumbers":
    """The guardrail, as configured."""
    return CardNumbers(config)


class CardNumbers:
    """See the module's docstring."""

    name = "pan"
    trigger = _GROUP

    def __init__(self, config: Config) -> None:
        self.on_input = Action(config.on_input)
        self.on_output = Action(config.on_output)

    def may_match(self, raw: bytes) -> bool:
        """Few passes in C. Escapes and non-ASCII text may hide digits or separators, so they answer True; but an escaped digit
        shows a digit, too, so that few digits are few in any case.
        """
        if not raw.isascii():
            return True
        if len(raw.translate(None, _NO_DIGITS)) < MIN_DIGITS:
            return False
        if b"\\" in raw and _OTHER_ESCAPE.search(raw) is not None:
            return True
        return b"0" * MIN_DIGITS in raw.translate(_DIGITS_TO_ZERO, _ASCII_SEPARATORS)

    def scan(self, text: str, *, final: bool) -> Scan:
        """See `Guardrail.scan`."""
        length = len(text)
        if _GROUP.search(text) is None:
            return Scan((), length, max(0, length - _CONTEXT_CHARS))
        blank = _blanked(text, final=final)
        findings: list[Span] = []
        open_from, keep_from = length, length - _CONTEXT_CHARS
        unfinished = None if final else _UNFINISHED.search(blank)
        undecided_from = length if unfinished is None else unfinished.start()
        for chain in _CHAIN.finditer(blank):
            if chain.end() > undecided_from:
                open_from = min(open_from, max(chain.start(), undecided_from))
                keep_from = min(keep_from, open_from - 2 * _CONTEXT_CHARS)
                if chain.start() >= undecided_from:
                    continue
            growing = not final and _OPEN_TAIL.match(blank, chain.end()) is not None
            groups = [(match.start(), match.end()) for match in _GROUP.finditer(blank, chain.start(), chain.end())]
            findings += _in_chain(blank, groups, growing=growing, last_open=chain.end() == length)
            if growing:
                open_from = min(open_from, _open_from(groups))
                keep_from = min(keep_from, open_from - 2 * _CONTEXT_CHARS)
            elif chain.start() < keep_from < chain.end():
                keep_from = chain.end()  # never leave half a number behind, it would be read as another
        return Scan(tuple(findings), open_from, max(0, keep_from))

    def mask(self, text: str, span: Span) -> str:
        """Keeps the separators and the last four digits, as PCI DSS 3.4 allows."""
        left = sum(char.isdecimal() for char in text[span.start : span.end]) - 4
        out = []
        for char in text[span.start : span.end]:
            if char.isdecimal():
                left -= 1
                out.append("*" if left >= 0 else char)
            else:
                out.append(char)
        return "".join(out)

    def refusal(self, findings: int) -> str:
        """See `Guardrail.refusal`."""
        what = "a payment card number" if findings == 1 else f"{findings} payment card numbers"
        return (
            f"The request holds {what}, which the policy of this project does not let pass. Remove it and send again."
        )


def is_pan(digits: str) -> bool:
    """Whether `digits` (ASCII digits only) is a card number: issuer range, its length, Luhn."""
    return _issued(digits) and luhn(digits)


def luhn(digits: str) -> bool:
    """The mod-10 check of ISO/IEC 7812-1 annex B."""
    total = 0
    for position, char in enumerate(reversed(digits)):
        value = ord(char) - 48
        if position % 2:
            value *= 2
            if value > 9:
                value -= 9
        total += value
    return total % 10 == 0


def _issued(digits: str) -> bool:
    length = len(digits)
    return any(length in lengths and first <= digits[: len(first)] <= last for first, last, lengths in _RANGES)


def _blanked(text: str, *, final: bool) -> str:
    """`text` with ids and decimal fractions replaced, character for character, by what is no digit."""
    for pattern in (_UUID, _HEX_ENDED if final else _HEX_SO_FAR, _FRACTION):
        text = pattern.sub(lambda match: "x" * len(match[0]), text)
    return _IBAN.sub(lambda match: "x" * len(match[0]) if _is_iban(match[0]) else match[0], text)


def _is_iban(text: str) -> bool:
    """ISO 13616: moved to the end and read in base 36, country and check digits leave 1 modulo 97."""
    compact = text.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def _in_chain(text: str, groups: list[tuple[int, int]], *, growing: bool, last_open: bool) -> list[Span]:
    """The certain card numbers among a chain's groups, leftmost first."""
    sizes = [end - start for start, end in groups]
    closed = len(groups) - (1 if growing and last_open else 0)
    if not growing and MIN_DIGITS <= sum(sizes) <= MAX_DIGITS and is_pan(_digits(text, groups)):
        return [Span(groups[0][0], groups[-1][1])]
    found: list[Span] = []
    first = 0
    while first < closed:
        if sizes[first] < MIN_DIGITS and sizes[first] not in _FIRST_GROUPS:
            first += 1
            continue
        end = min(closed, first + _MOST_GROUPS)
        last = _window(text, groups[first:end], sizes[first:end])
        if last is None:
            first += 1
        else:
            found.append(Span(groups[first][0], groups[first + last][1]))
            first += last + 1
    return found


def _window(text: str, groups: list[tuple[int, int]], sizes: list[int]) -> int | None:
    """Index of the group that ends a card number beginning at the first group, if there is one."""
    total = 0
    for index, size in enumerate(sizes):
        total += size
        if total > MAX_DIGITS:
            return None
        shape = tuple(sizes[: index + 1])
        if total >= MIN_DIGITS and (index == 0 or shape in _PRINTED) and is_pan(_digits(text, groups[: index + 1])):
            return index
    return None


def _digits(text: str, groups: list[tuple[int, int]]) -> str:
    joined = "".join(text[start:end] for start, end in groups)
    return joined if joined.isascii() else "".join(str(int(char)) for char in joined)


def _open_from(groups: list[tuple[int, int]]) -> int:
    """Where the earliest number that could still become a card number begins."""
    total, start = 0, groups[-1][1]
    for group_start, group_end in reversed(groups):
        total += group_end - group_start
        if total > MAX_DIGITS:
            break
        start = group_start
    return start
