"""Characters reduced to the few classes that matter to a card number, one byte each."""

import re
import unicodedata
from collections.abc import Iterator

DIGITS = b"0123456789"
FOREIGN_DIGITS = bytes(range(0xB0, 0xBA))
"""Decimal digits of other scripts; the low four bits are the value."""
STYLED_DIGITS = bytes(range(0xD0, 0xDA))
"""Superscript, subscript, circled and other digits that no number is written in as a rule."""
PLAIN_DIGITS = DIGITS + FOREIGN_DIGITS
ALL_DIGITS = PLAIN_DIGITS + STYLED_DIGITS
INVISIBLE = b"^"
NARROW = b" ~-=.@"
"""Spaces (ASCII, other), dashes (ASCII, other) and dots (ASCII, other)."""
WIDE = b"\n/,|:'*_"
SEPARATORS = INVISIBLE + NARROW + WIDE
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
OTHER = ord("!")

_SCANNED = (range(0x3400), range(0xA000, 0xAC00), range(0xD7A4, 0xD800), range(0xF900, 0x14700),
            range(0x16000, 0x17000), range(0x1B000, 0x20000), range(0xE0000, 0xE0200))  # fmt: skip
"""Every code point outside has no class: ideographs, Hangul syllables, hieroglyphs, private use."""
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_FILLERS = "\u115f\u1160\u3164\uffa0"
_SAME = {
    "-": "-", " ": " ", ".": ".", "\t": "~",
    "=": "\u2212\u2043\u02d7",
    "@": "\u00b7\u2022\u2024\u2027\uff0e\u3002\uff61\u2219\u22c5\u30fb\uff65\u06d4",
    "/": "/\u2044\u2215\uff0f", ",": ",\uff0c\u3001\u060c", "|": "|\uff5c\u00a6\u2223\u2502", ":": ":\uff1a\u2236",
    "'": "'\u2018\u2019\u2032\uff07`\u00b4", "*": "*\uff0a\u2217", "_": "_\uff3f",
}  # fmt: skip


def _classes() -> Iterator[tuple[int, int]]:
    """Code points and their class, where that is not `OTHER`."""
    for codes in _SCANNED:
        for code in codes:
            char = chr(code)
            category = unicodedata.category(char)
            if category == "Zs":
                yield code, ord("~")
            elif category == "Pd":
                yield code, ord("=")
            elif category in ("Mn", "Me", "Cf", "Cc"):
                yield code, INVISIBLE[0]
            elif category[0] == "N" and (value := unicodedata.digit(char, None)) is not None:
                yield code, (DIGITS if code < 128 else FOREIGN_DIGITS if category == "Nd" else STYLED_DIGITS)[value]
    yield from ((ord(char), ord("\n")) for char in _LINE_ENDS)
    yield from ((ord(char), INVISIBLE[0]) for char in _FILLERS)
    yield from ((letter, letter) for letter in LETTERS)
    for known, chars in _SAME.items():
        yield from ((ord(char), ord(known)) for char in chars)
    yield ord("\t"), ord("~")


_TABLE = bytearray([OTHER]) * 0x110000
for _code, _class in _classes():
    _TABLE[_code] = _class
_LATIN = bytes(_TABLE[:256])
_EVERY = _TABLE.decode("latin-1")


def classes_of(text: str) -> bytes:
    """One class byte for each character; 1 ns a character in Latin-1, some 20 in other text."""
    try:
        return text.encode("latin-1").translate(_LATIN)
    except UnicodeEncodeError:
        return text.translate(_EVERY).encode("latin-1")


def _ranges(codes: list[int]) -> str:
    out: list[list[int]] = []
    for code in codes:
        if out and code == out[-1][1] + 1:
            out[-1][1] = code
        else:
            out.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in out)


_BMP_DIGITS = [code for code in range(128, 0x10000) if _TABLE[code] in ALL_DIGITS]
ANY_DIGIT = re.compile("[0-9" + _ranges(_BMP_DIGITS) + "\U00010000-\U0001ffff]")
"""Finds every character that may be a digit of a card number, and in the planes above 0 whatever is there: up to there `re`
looks into a bitmap, but above it would try range after range.
"""


def is_digit(char: str) -> bool:
    """Whether `char` counts as one digit of a number."""
    return _TABLE[ord(char)] in ALL_DIGITS


def members(classes: bytes, value: int = 0xFF) -> bytes:
    """A table for `bytes.translate`: `value` for `classes`, 0 for all else."""
    return bytes(value if code in classes else 0 for code in range(256))


def others(classes: bytes) -> bytes:
    """All byte values that are not in `classes`."""
    return bytes(set(range(256)) - set(classes))
