"""The forms in which a card number counts, as one regular expression over gaps and valid lengths.

Each digit is three bytes: its gap byte (`gaps`, marked), and the valid lengths that begin there, four bits in either of the
other two. `END` or `OPEN` stands after the last digit.
"""

import re
from collections.abc import Callable, Iterable

from guardrails.cards.gaps import BREAK, CORE, EITHER, HIT, JOINED, KIND, MARK, NARROW_GAP, WIDE_GAP, ZERO
from guardrails.cards.issuers import LENGTHS, length_bit

PRINTED = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 4, 5), (4, 3, 3, 3), (4, 6, 5), (4, 6, 4)}
    | {(4, 5, 6), (6, 13), (4, 4, 4), (4, 4, 4, 1), (4, 4, 4, 2), (4, 4, 4, 3), (8, 8), (6, 4, 5), (6, 10)}
)
"""Groupings that cards and forms print; the only ones that count inside a longer row of numbers."""
APART = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4)} | {(1,) * length for length in (13, 14, 15, 16, 19)}
)
"""Groupings that count even if line breaks, table cells, slashes or commas stand between them: the same between all."""
MAX_ZEROS = 12
"""Zeros in front of a number that is padded with them, at most; at least three."""

STEP = 3
END, OPEN = bytes([MARK | BREAK, 0, 0]), bytes(STEP)
"""What follows the last digit: something that ends a number, or what is not known yet."""


def encode(gaps: bytes, lengths: bytes, last: bytes) -> bytes:
    """The text for `NUMBER`: three bytes a digit, then `last`."""
    out = bytearray(STEP * len(gaps))
    out[0::STEP] = gaps
    out[1::STEP] = lengths.translate(_LOW)
    out[2::STEP] = lengths.translate(_HIGH)
    return bytes(out + last)


_LOW, _HIGH = bytes(code & 15 for code in range(256)), bytes(code >> 4 for code in range(256))


def _set(codes: Iterable[int]) -> str:
    return "[" + "".join(f"\\x{code:02x}" for code in codes) + "]"


def _gap(rule: Callable[[int, int], bool], *, flags: int = 0) -> str:
    """A gap byte whose kind and core satisfy `rule`, with `flags` set."""
    marked = range(MARK, 0x100)
    return _set(code for code in marked if code & flags == flags and rule(code & KIND, code & CORE))


def _begins(length: int) -> str:
    """The two bytes after a gap byte, where a number of `length` digits begins."""
    bit = length_bit(length)
    valid = _set(code for code in range(16) if code & (bit | bit >> 4))
    return f"{valid}." if bit < 16 else f"{_ANY}{valid}"


_ANY = "[\\x00-\\x0f]"  # a set, as the engine looks one character ahead only where a branch begins with one


def _is_group(kind: int, core: int) -> bool:
    return kind != JOINED


def _is_chain(kind: int, core: int) -> bool:
    return kind >= WIDE_GAP


def _is_spaced(kind: int, core: int) -> bool:
    return kind == NARROW_GAP or kind | core == EITHER


_JOINED = _gap(lambda kind, core: kind == JOINED) + ".."
_GROUP, _CHAIN = _gap(_is_group), _gap(_is_chain)
_SPACED = _gap(_is_spaced) + ".."
_IN_CHAIN = _gap(lambda kind, core: kind == JOINED or _is_spaced(kind, core)) + ".."
_ZERO_JOINED = _gap(lambda kind, core: kind == JOINED, flags=ZERO) + ".."


def _grouped(shape: tuple[int, ...], between: str) -> str:
    """The digits of a number of this shape but the first. Repeats are written out, which is faster than to count them."""
    return _JOINED * (shape[0] - 1) + "".join(between + _JOINED * (size - 1) for size in shape[1:])


def _begin(rule: Callable[[int, int], bool], follows: str, flag: int = HIT) -> str:
    """Whether the gap byte just read is one at which a number may begin; `follows` fails soonest."""
    return f"(?<={_gap(rule, flags=flag)})(?=..{follows})"


def _alone() -> str:
    """A number with no other within three separators, grouped in any way."""
    forms = "|".join(f"{_begins(length)}{_IN_CHAIN * (length - 1)}(?={_CHAIN})" for length in LENGTHS)
    return f"{_begin(_is_chain, _IN_CHAIN)}(?:{forms})"


def _in_row() -> str:
    """A number among others, unbroken or printed; the shortest that fits."""
    forms = []
    for length in LENGTHS:
        shapes = [(length,), *(shape for shape in PRINTED if sum(shape) == length)]
        paths = {"s".join("j" * (size - 1) for size in shape) for shape in shapes}
        forms.append(f"{_begins(length)}{_either(paths)}(?={_GROUP})")
    return f"{_begin(_is_group, _JOINED * 3)}(?:{'|'.join(forms)})"


def _either(paths: set[str]) -> str:
    """Any of these rows of digits, joined (j) to the one before or separated (s) from it, each step tried once."""
    if paths == {""}:
        return ""
    steps = {"j": _JOINED, "s": _SPACED}
    branches = [
        step + _either({path[1:] for path in paths if path[0] == name})
        for name, step in steps.items()
        if any(path[0] == name for path in paths)
    ]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _padded() -> str:
    """An unbroken number with zeros in front."""
    hit = _gap(lambda kind, core: kind == JOINED, flags=HIT)
    forms = "|".join(f"{_begins(length)}{_JOINED * (length - 1)}(?={_GROUP})" for length in LENGTHS)
    zeros = f"..(?:{_ZERO_JOINED}){{2,{MAX_ZEROS - 1}}}+"
    return f"{_begin(_is_group, _ZERO_JOINED * 2, ZERO)}{zeros}{hit}(?:{forms})"


def _apart(first: int, core: int) -> str:
    """A number after its first group of `first` digits, with the same punctuation in all gaps and none of it around.

    It begins with the next gap byte, as that rules out most; what stood before is looked up afterwards.
    """

    def around(kind: int, found: int) -> bool:
        return kind == BREAK or (kind != JOINED and found != core)

    between = _gap(lambda kind, found: kind in (NARROW_GAP, WIDE_GAP) and found == core)
    forms = []
    for shape in sorted(shape for shape in APART if shape[0] == first):
        rest = "..".join(["", *[_JOINED * (shape[1] - 1)]]) + "".join(
            between + ".." + _JOINED * (size - 1) for size in shape[2:]
        )
        length = sum(shape)
        forms.append(f"{rest}(?<={_begins(length)}.{{{STEP * (length - 1)}}})(?={_gap(around)})")
    return f"{between}(?<={_gap(around)}.{{{STEP * first}}})(?:{'|'.join(forms)})"


def _aparts() -> str:
    """All numbers whose gaps are alike."""
    forms = []
    for first in sorted({shape[0] for shape in APART}, reverse=True):
        dispatched = "|".join(_apart(first, core) for core in range(CORE + 1))
        forms.append(f"{_JOINED * (first - 1)}(?:{dispatched})")
    return f"{_gap(_is_group, flags=HIT)}..(?:{'|'.join(forms)})"


_POSSIBLE = _set(code for code in range(MARK, 0x100) if code & KIND and code & (HIT | ZERO))


def _compiled(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode("latin-1"), re.DOTALL)


POSSIBLE = _compiled(_POSSIBLE)
"""Searched in gap bytes alone: nothing is found where this is not."""
NUMBER = _compiled(f"{_POSSIBLE}(?:{_alone()}|{_in_row()}|{_padded()})")
"""Numbers whose separators are narrow."""
APART_NUMBER = _compiled(_aparts())
"""Numbers in alike gaps of any kind. Only digits that a wide gap follows soon should have `HIT` set."""
