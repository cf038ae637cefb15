"""Issuer ranges and the Luhn check, for one number and for every digit of a block at once."""

from collections.abc import Iterable

from guardrails.cards.lanes import after, lanes

MIN_DIGITS, MAX_DIGITS = 12, 19
LENGTHS = range(MIN_DIGITS, MAX_DIGITS + 1)

RANGES: tuple[tuple[str, str, frozenset[int]], ...] = (
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
"""Issuer identification ranges as (first prefix, last prefix, lengths); prefixes of equal length, of six digits at most."""


def is_pan(digits: str) -> bool:
    """Whether `digits` (ASCII digits only) is a card number: issuer range, its length, Luhn."""
    length = len(digits)
    issued = any(length in lengths and first <= digits[: len(first)] <= last for first, last, lengths in RANGES)
    return issued and luhn(digits)


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


def length_bit(length: int) -> int:
    """The bit that stands for a number of this many digits."""
    return 1 << length - MIN_DIGITS


def valid_lengths(values: bytes, begins: bytes, ends: bytes) -> bytes:
    """For each digit the lengths, as bits, at which an issuer's number with a right check digit begins there.

    `values` are digits 0 to 9, one a byte. Only numbers count that begin at a digit where `begins` is 0xFF and end before
    one where `ends` is, or at the end of all.
    """
    count = len(values)
    issued = _issued(values) & lanes(begins)
    return (_checked(values, issued, lanes(ends + b"\xff")) if issued else 0).to_bytes(count, "little")


_DOUBLED = bytes((2 * value - 9 if value > 4 else 2 * value) if value < 10 else 0 for value in range(256))
_PASSES = {
    length: bytes(0 if total % 10 else length_bit(length) for total in range(256)) for length in LENGTHS
}  # no total exceeds 19 times 9


def _checked(values: bytes, issued: int, ends: int) -> int:
    """Those of the lengths `issued` at which Luhn holds. Sums of neighbouring digits are built up by doubling."""
    count = len(values)
    every = lanes(b"\1" * count)
    single = lanes(values)
    pair = lanes(values.translate(_DOUBLED)) + after(single, 1)
    four = pair + after(pair, 2)
    eight = four + after(four, 4)
    even = {12: eight + after(four, 8), 16: eight + after(eight, 8)}
    even[14], even[18] = even[12] + after(pair, 12), even[16] + after(pair, 16)
    found = 0
    for length in LENGTHS:
        possible = issued & after(ends, length) & every * length_bit(length)
        if possible:
            total = even[length] if length % 2 == 0 else single + after(even[length - 1], 1)
            found |= possible & lanes(total.to_bytes(count, "little").translate(_PASSES[length]))
    return found


_ANY_PAIR = frozenset(range(100))


def _spans(first: str, last: str) -> Iterable[tuple[int, int, frozenset[int]]]:
    """The prefixes from `first` to `last`: first pair of digits, second pair, and what the third pair may be."""
    if len(first) <= 4:
        for four in range(int(first.ljust(4, "0")), int(last.ljust(4, "9")) + 1):
            yield four // 100, four % 100, _ANY_PAIR
        return
    low, high = int(first.ljust(6, "0")), int(last.ljust(6, "9"))
    for four in range(low // 100, high // 100 + 1):
        thirds = [six % 100 for six in range(max(low, four * 100), min(high, four * 100 + 99) + 1)]
        yield four // 100, four % 100, frozenset(thirds)


class _Plane:
    """Up to eight rules, a bit each: a prefix meets a rule if all three of its pairs of digits do."""

    def __init__(self, rules: list[tuple[frozenset[int], ...]], lengths: list[int]) -> None:
        self.pairs = [bytearray(256), bytearray(256), bytearray(256)]
        for bit, rule in enumerate(rules):
            for table, pairs in zip(self.pairs, rule, strict=True):
                for pair in pairs:
                    table[pair // 10 << 4 | pair % 10] |= 1 << bit
        self.lengths = bytes(_union(mask for bit, mask in enumerate(lengths) if met >> bit & 1) for met in range(256))

    def lengths_at(self, coded: bytes) -> int:
        """Lengths of the rules met at each digit; `coded` holds each digit and the next one as one byte."""
        met = lanes(coded.translate(self.pairs[0]))
        if not met:
            return 0
        met &= lanes(coded[2:].translate(self.pairs[1]))
        met &= lanes(coded[4:].translate(self.pairs[2]))
        return lanes(met.to_bytes(len(coded), "little").translate(self.lengths)) if met else 0


def _union(masks: Iterable[int]) -> int:
    out = 0
    for mask in masks:
        out |= mask
    return out


def _planes() -> list[_Plane]:
    """The ranges as rules: pairs of digits that allow the same go together."""
    spans: dict[tuple[int, int], dict[int, frozenset[int]]] = {}
    for first, last, lengths in RANGES:
        mask = _union(length_bit(length) for length in lengths)
        for one, two, thirds in _spans(first, last):
            seconds = spans.setdefault((one, mask), {})
            seconds[two] = seconds.get(two, frozenset()) | thirds
    merged: dict[tuple[frozenset[int], frozenset[int], int], frozenset[int]] = {}
    for (one, mask), seconds in spans.items():
        for thirds in set(seconds.values()):
            key = frozenset(two for two, found in seconds.items() if found == thirds), thirds, mask
            merged[key] = merged.get(key, frozenset()) | {one}
    rules: list[tuple[frozenset[int], ...]] = [(ones, twos, thirds) for (twos, thirds, _), ones in merged.items()]
    masks = [mask for _, _, mask in merged]
    return [_Plane(rules[at : at + 8], masks[at : at + 8]) for at in range(0, len(rules), 8)]


_PLANES = _planes()


def _issued(values: bytes) -> int:
    """Lengths that the issuer of a number which begins at each digit gives out."""
    digits = lanes(values)
    coded = ((digits << 4) + after(digits, 1)).to_bytes(len(values) + 1, "little")[: len(values)]
    found = 0
    for plane in _PLANES:
        found |= plane.lengths_at(coded)
    return found
