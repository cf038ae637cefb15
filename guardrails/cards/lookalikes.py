"""Blanks what is no card number although it holds as many digits: UUIDs, hexadecimal ids, fractions, IBANs, long runs."""

import re

from guardrails.cards.alphabet import ALL_DIGITS, DIGITS, LETTERS, PLAIN_DIGITS, SEPARATORS, members
from guardrails.cards.lanes import after, before, full, lanes, run_of, spread

LONGEST_RUN = 32
"""Digits in a row beyond which no card number is looked for, zeros in front or not."""
POINT = b"y"
"""Stands for the point of a fraction; the digits before it are kept, as they may end a number: `6310 005.42`."""
_BLANK = b"x"
_ALNUM, _HEX = members(DIGITS + LETTERS), members(DIGITS + b"abcdefABCDEF")
_ASCII_DIGIT, _DIGIT, _ANY_DIGIT = members(DIGITS), members(PLAIN_DIGITS), members(ALL_DIGITS)
_DASH, _DOT = members(b"-"), members(b".")
_IBAN = re.compile(rb"[A-Z](?<![0-9A-Za-z][A-Z])[A-Z][0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?(?![0-9A-Za-z])")
_SOME_DIGIT, _SOME_GAP = rb"[0-9\xb0-\xb9\xd0-\xd9]", b"[" + re.escape(SEPARATORS) + rb"]{0,8}+"
_MANY_DIGITS = re.compile(_SOME_DIGIT + (_SOME_GAP + _SOME_DIGIT) * 11)
_FAR = 120  # an IBAN and, after it, what could make twelve digits
_COUNTRIES = {
    bytes((first, second)): b"%d%d" % (first - 55, second - 55) for first in LETTERS[:26] for second in LETTERS[:26]
}
_EXPANDED = {code: str(int(chr(code), 36)) for code in DIGITS + LETTERS[:26]}


def blanked(classes: bytes) -> bytes:
    """`classes` with look-alikes replaced by letters, so that they end any number beside them."""
    count = len(classes)
    text, every = lanes(classes), full(count)
    ids = _identifiers(classes, every) & every
    digit = lanes(classes.translate(_DIGIT)) & ~ids
    decimals, points = _fractions(classes, digit, count)
    mask = ids | decimals | points
    out = _fill(text, mask, count, points) if mask else classes
    if _IBAN.search(out) is not None:
        out = _without_ibans(out)
    runs = run_of(lanes(out.translate(_ANY_DIGIT)), LONGEST_RUN + 1)
    return _fill(lanes(out), spread(runs, LONGEST_RUN + 1), count) if runs else out


def _fill(text: int, mask: int, count: int, points: int = 0) -> bytes:
    filled = (text & ~mask) | (lanes(_BLANK * count) & mask) | (lanes(b"\1" * count) & points)  # "x" and 1 is "y"
    return filled.to_bytes(count, "little")


def _identifiers(classes: bytes, every: int) -> int:
    """Lanes of UUIDs, and of hexadecimal ids of 32, 40 or 64 characters with a letter among them."""
    hexadecimal = lanes(classes.translate(_HEX))
    four = run_of(hexadecimal, 4)
    eight = four & after(four, 4)
    if not eight:
        return 0
    alnum = lanes(classes.translate(_ALNUM))
    start = every & ~before(alnum, 1)
    found = 0
    if classes.count(b"-") >= 4:
        dash = lanes(classes.translate(_DASH))
        groups = after(four, 9) & after(four, 14) & after(four, 19) & after(eight, 24) & after(four, 32)
        dashes = after(dash, 8) & after(dash, 13) & after(dash, 18) & after(dash, 23)
        found |= spread(start & eight & groups & dashes & ~after(alnum, 36), 36)
    thirty_two = run_of(eight, 25)
    if start & thirty_two:
        digit = run_of(lanes(classes.translate(_ASCII_DIGIT)), 8)
        for length in (32, 40, 64):
            alone = start & run_of(eight, length - 7) & ~after(alnum, length)
            found |= spread(alone & ~run_of(digit, length - 7), length)
    return found


def _fractions(classes: bytes, digit: int, count: int) -> tuple[int, int]:
    """Lanes of the digits after a decimal point that has one to three digits before it, unless another point follows
    them; and of such points.

    Runs of digits are followed to their end by carries: adding 1 to the first lane of a run of 0xFF leaves zeros in it.
    """
    dot = lanes(classes.translate(_DOT))
    last = before(digit, 1)
    points = dot & last & after(digit, 1)
    if not points:
        return 0, 0
    one, two, three = before(digit | dot, 2), before(digit, 2), before(digit, 3)
    whole = ~one | (two & ~before(digit | dot, 3)) | (two & three & ~before(digit | dot, 4))
    decimal = points & whole
    if not decimal:
        return 0, 0
    ones = lanes(b"\1" * count)
    run = digit & ~(digit + (before(decimal, 1) & ones))
    mirrored = int.from_bytes(digit.to_bytes(count, "little"), "big")
    ends = int.from_bytes((after(points, 1) & ones).to_bytes(count, "little"), "big")
    dotted = mirrored & ~(mirrored + ends)
    run &= ~int.from_bytes(dotted.to_bytes(count, "big"), "little")
    return run, decimal & after(run, 1)


def _without_ibans(text: bytes) -> bytes:
    out = bytearray(text)
    for match in _IBAN.finditer(text):
        start, end = match.span()
        found = text[start:end].replace(b" ", b"")
        if found[2:].isdigit() and len(found) >= 14:
            valid = int(found[4:] + _COUNTRIES[found[:2]] + found[2:4]) % 97 == 1
        else:
            many = _MANY_DIGITS.search(text, start, start + _FAR)
            valid = many is not None and many.start() < end and _is_iban(found)
        if valid:
            out[start:end] = _BLANK * (end - start)
    return bytes(out)


def _is_iban(text: bytes) -> bool:
    """ISO 13616: moved to the end and read in base 36, country and check digits leave 1 modulo 97."""
    body = "".join([_EXPANDED[code] for code in text[4:]])
    return int(body + _COUNTRIES[text[:2]].decode() + text[2:4].decode()) % 97 == 1
