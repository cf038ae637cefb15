"""What text to come may still change, at the end of a text that is not final."""

import re

from guardrails.cards.alphabet import ALL_DIGITS, INVISIBLE, NARROW, SEPARATORS
from guardrails.cards.gaps import MAX_GAP
from guardrails.cards.issuers import MAX_DIGITS
from guardrails.cards.lookalikes import LONGEST_RUN

CONTEXT = 192
"""Characters that are shown again before the text that is open: enough for a whole id or number, twice."""
_WINDOW = 100
_ID = re.compile(
    rb"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{1,64}"
    rb"|[A-Z]{2}[0-9]{1,2}(?: ?[0-9A-Z]{4}){0,7}(?: ?[0-9A-Z]{0,4})?"
    rb"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){0,3}[0-9A-Fa-f]{0,12})\Z"
)
_FRACTION = re.compile(rb"(?<![0-9\xb0-\xb9.])[0-9\xb0-\xb9]{1,3}(?=\.[0-9\xb0-\xb9]{0,%d}\.?\Z)" % LONGEST_RUN)
_DIGIT, _GAP = rb"[0-9\xb0-\xb9\xd0-\xd9]", b"[" + re.escape(SEPARATORS) + rb"]{1,%d}" % MAX_GAP
_APART = re.compile(
    rb"(?<!%(D)b)(?:%(D)b{4}(?:%(G)b%(D)b{6}(?:%(G)b%(D)b{0,5})?|(?:%(G)b%(D)b{4}){0,3}(?:%(G)b%(D)b{0,6})?)"
    rb"|%(D)b(?:%(G)b%(D)b){0,18})(?:%(G)b)?\Z" % {b"D": _DIGIT, b"G": _GAP}
)
_SOME_DIGIT = re.compile(_DIGIT)
_IN_CHAIN = ALL_DIGITS + NARROW + INVISIBLE + b"*_"
_IN_APART = ALL_DIGITS + SEPARATORS
_BREAKS = re.compile(b"[^" + re.escape(_IN_APART) + b"]")
_REACH = MAX_DIGITS * (MAX_GAP + 1) + MAX_GAP


def undecided_from(classes: bytes) -> int:
    """Where the earliest id, fraction or run of digits begins that the next characters may end or continue."""
    count = len(classes)
    end = classes[-_WINDOW:]
    start = count - len(end)
    run = len(end) - len(end.rstrip(ALL_DIGITS))
    found = count - run if run <= LONGEST_RUN else count
    if (match := _ID.search(end)) is not None:
        found = min(found, start + match.start())
    if (match := _FRACTION.search(end)) is not None:
        found = min(found, start + match.end())
    return found


def open_chain(classes: bytes) -> tuple[int, bool]:
    """Where the numbers begin that what follows `classes` may continue or end, their length if there are none; and
    whether the last of them may go on after no more than a narrow separator.

    `classes` are blanked, and end where something undecided begins.
    """
    count = len(classes)
    end = classes[-4 * _REACH :]
    base = count - len(end)
    separators = len(end) - len(end.rstrip(SEPARATORS))
    if separators > MAX_GAP or separators == len(end):
        return count, False
    chain = end[len(end.rstrip(_IN_CHAIN)) :]
    found, narrow = count, _SOME_DIGIT.search(chain) is not None
    if narrow:
        found = count - len(chain) + _last_digits(chain)
    apart = end[-_REACH:][len(end[-_REACH:].rstrip(_IN_APART)) :]
    if (match := _APART.search(apart)) is not None:
        found = min(found, count - len(apart) + match.start())
    return max(found, base), narrow


def _last_digits(chain: bytes) -> int:
    """Where the last `MAX_DIGITS` digits of a chain begin, at the beginning of a group where one is near."""
    places = [match.start() for match in _SOME_DIGIT.finditer(chain)]
    return places[-MAX_DIGITS] if len(places) >= MAX_DIGITS else places[0]


def first_digit(classes: bytes, start: int) -> int:
    """Index of the first digit from `start` on; the length if there is none."""
    match = _SOME_DIGIT.search(classes, start)
    return len(classes) if match is None else match.start()


def cut_before(classes: bytes, blank: bytes, place: int) -> tuple[int, bool]:
    """Where a text may be cut some `CONTEXT` before `place` so that what follows reads the same, if it can be told here.

    False with it means that `place` lies in a row of numbers which begins further left; `classes` are the text,
    `blank` the same without look-alikes.
    """
    cut = place - CONTEXT
    if cut <= 0:
        return 0, True
    while cut < place and blank[cut] != classes[cut]:
        cut += 1
    row = blank[max(0, cut - CONTEXT) : cut]
    digits = row[len(row.rstrip(_IN_APART)) :]
    if _SOME_DIGIT.search(digits) is None:
        return cut, True
    ends = _BREAKS.search(blank, cut, place)
    if ends is None:
        return cut, False
    cut = ends.start()
    while cut > 0 and blank[cut - 1] in SEPARATORS:
        cut -= 1
    return cut - len(blank[:cut]) + len(blank[:cut].rstrip(ALL_DIGITS)), True
