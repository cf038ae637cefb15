"""What stands before each digit: nothing, a separator, or something that ends a number. One byte per digit."""

from guardrails.cards.alphabet import ALL_DIGITS, INVISIBLE, NARROW, SEPARATORS, STYLED_DIGITS, WIDE, members, others
from guardrails.cards.issuers import MAX_DIGITS
from guardrails.cards.lanes import after, before, lanes, run_of
from guardrails.cards.lookalikes import POINT

CORE, KIND, ZERO, HIT, MARK = 0b111, 0b11000, 0x20, 0x40, 0x80
"""Bits of a gap byte: the punctuation in the gap, its kind, whether the digit is a zero, whether a valid number begins
with the digit, and a mark that the byte is one."""
JOINED, NARROW_GAP, WIDE_GAP, BREAK = 0x00, 0x08, 0x10, 0x18
EITHER = BREAK | CORE
"""A narrow gap before the whole part of a fraction: the number may go on there, or end before it."""
MAX_GAP = 8
"""Characters of a separator, at most."""
MAX_VISIBLE = 3
"""Spaces, dashes and dots of a narrow separator, at most."""

_PUNCTUATION = (b"-=", b".@", b"/", b",", b"|", b":", b"'")
_MIXED = 7  # the same as "'", which is never narrow, as dashes mixed with dots are
_ENDS = 0x80
_DIGIT, _STYLED = members(ALL_DIGITS), members(STYLED_DIGITS)
_POINT = members(POINT)
_VALUE = bytes(code & 15 for code in range(256))
NO_DIGITS = others(ALL_DIGITS)


def with_hits(gaps: bytes, lengths: bytes) -> bytes:
    """`gaps` with `HIT` set where a valid number of some length begins."""
    return (lanes(gaps) | lanes(lengths.translate(_HITS))).to_bytes(len(gaps), "little")


def group_starts(gaps: bytes) -> bytes:
    """0xFF at each digit that is not joined to the one before."""
    return gaps.translate(_BEGINS)


def number_starts(gaps: bytes) -> bytes:
    """0xFF at each digit where a number may begin: the first of a group, or one after a zero."""
    starts = lanes(gaps.translate(_BEGINS)) | before(lanes(gaps.translate(_IS_ZERO)), 1)
    return starts.to_bytes(len(gaps) + 1, "little")[: len(gaps)]


def with_near_hits(gaps: bytes) -> bytes:
    """`gaps` with `HIT` left only at digits that a wide gap follows within the longest number; empty if there are none."""
    count = len(gaps)
    kinds = lanes(gaps.translate(_IS_WIDE))
    if not kinds:
        return b""
    near, done = after(kinds, 1), 1
    while done < MAX_DIGITS - 1:
        step = min(done, MAX_DIGITS - 1 - done)
        near |= after(near, step)
        done += step
    values = lanes(gaps)
    hits = values & near & lanes(bytes([HIT]) * count)
    return ((values & lanes(bytes([0xFF - HIT]) * count)) | hits).to_bytes(count, "little") if hits else b""


def _core_bits() -> bytes:
    table = bytearray(_ENDS if code not in SEPARATORS + ALL_DIGITS else 0 for code in range(256))
    for bit, chars in enumerate(_PUNCTUATION):
        for code in chars:
            table[code] = 1 << bit
    return bytes(table)


def _core_of_bits() -> bytes:
    cores = {0: 0} | {1 << bit: bit + 1 for bit in range(len(_PUNCTUATION))}
    return bytes(BREAK if bits & _ENDS else cores.get(bits, _MIXED) for bits in range(256))


_CORE_BITS, _CORE = _core_bits(), _core_of_bits()
_COUNTED = bytes(0x10 if code in WIDE else 1 if code in NARROW else 0 for code in range(256))
_KIND = bytes(WIDE_GAP if code >> 4 or code & 15 > MAX_VISIBLE else NARROW_GAP for code in range(256))


def without_emphasis(classes: bytes) -> bytes:
    """`classes` with Markdown's `**` and `__` invisible; more of them in a row are what hides digits, and end a number."""
    for mark in (b"*", b"_"):
        if mark * 2 in classes:
            classes = classes.replace(mark * 3, b"!!!").replace(mark * 2, INVISIBLE * 2)
    return classes


def values_of(classes: bytes) -> bytes:
    """The digits alone, each as its value."""
    return classes.translate(_VALUE, NO_DIGITS)


def gaps_of(classes: bytes) -> bytes:
    """A gap byte for each digit, `HIT` not yet set. The first digit follows a `BREAK`."""
    classes = b"!" + classes
    count = len(classes)
    digit = lanes(classes.translate(_DIGIT))
    every = (1 << 8 * count) - 1
    gap = every & ~digit
    core, counted = lanes(classes.translate(_CORE_BITS)), lanes(classes.translate(_COUNTED))
    inside, width = gap, 1
    while (
        width < MAX_GAP
    ):  # `core` and `counted` cover `width` characters of a gap, `inside` says where these are all of it
        core |= before(core, width) & inside
        counted += before(counted, width) & inside
        inside &= before(inside, width)
        width *= 2
    kinds = lanes((core & every).to_bytes(count, "little").translate(_CORE))
    kinds |= lanes((counted & every).to_bytes(count, "little").translate(_KIND))
    kinds |= before(run_of(gap, MAX_GAP + 1), MAX_GAP) & lanes(bytes([BREAK]) * count)
    out = before(kinds, 1) & digit & before(gap, 1)
    if POINT in classes:
        point = lanes(classes.translate(_POINT))
        whole = after(point, 1) | (after(digit, 1) & (after(point, 2) | (after(digit, 2) & after(point, 3))))
        ones = lanes(b"\1" * count)
        out |= (out >> 3 & ~(out >> 4) & ones & whole) * EITHER
    styled = lanes(classes.translate(_STYLED))
    out |= (styled ^ before(styled, 1)) & digit & before(digit, 1) & lanes(bytes([NARROW_GAP]) * count)
    out |= lanes(classes.translate(_ZEROS)) | lanes(bytes([MARK]) * count)
    marked = ((out & every) | gap).to_bytes(count, "little")
    return marked.translate(None, b"\xff")


_HITS = bytes([0]) + bytes([HIT]) * 255
_BEGINS = bytes(0xFF if code & KIND else 0 for code in range(256))
_IS_ZERO = bytes(0xFF if code & ZERO else 0 for code in range(256))
_IS_WIDE = bytes(0xFF if code & MARK and code & KIND == WIDE_GAP else 0 for code in range(256))
_ZEROS = members(bytes(code for code in ALL_DIGITS if code & 15 == 0), ZERO)
