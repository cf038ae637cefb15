"""A request's JSON body: checked without being decoded as a whole, and the fields the gateway acts on."""

import re
from codecs import utf_8_decode
from itertools import accumulate

import msgspec
from msgspec import UNSET

from tidegate.errors import InvalidRequest
from tidegate.wire.openai import (
    ALWAYS_LOOKED_AT,
    RARE_FIELDS,
    GenerateRequest,
    decode_any,
    decode_fields,
    decode_request,
)
from tidegate.wire.skim import Skim

MAX_DEPTH = 128
_WINDOW_BYTES = 65_536
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SOME_STRINGS = re.compile(rb'(?:[^"]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"){1,500}', re.DOTALL)
"""Ends outside a string, so that what it finds can be looked at by itself."""
_NAME = re.compile(rb'[ \t\n\r]*("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_AFTER_VALUE = re.compile(rb"[ \t\n\r]*([,}])")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = tuple(1 if byte in b"[{" else -1 if byte in b"]}" else 0 for byte in range(256))
_COMMON_NAMES, _STREAM_NAMES, _MAX_TOKENS = (
    (b'"model"', b'"messages"'),
    (b'"stream"', b'"stream_options"'),
    (b'"max_tokens"',),
)
_MAX_VALUES = {
    "top_k": 2**31 - 1,
    "seed": 2**63 - 1,
    "max_tokens": 2**31 - 1,
    "max_completion_tokens": 2**31 - 1,
    "min_tokens": 2**31 - 1,
}
_NEVER_TOO_LARGE = 10  # digits of the least of these


def read_request(raw: bytes, skim: Skim) -> GenerateRequest:
    """The fields the gateway acts on; the whole of `raw` is known to be JSON in UTF-8 then.

    Raises:
        InvalidRequest: it is not, is nested too deeply, or has one of these fields twice.
    """
    if not raw.isascii():
        _check_utf8(raw)
    try:
        request = decode_request(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The body is not a valid request: {error}.") from error
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    if skim.may_nest_deeper_than(MAX_DEPTH) and is_deeper_than(raw, MAX_DEPTH):
        raise _too_deep()
    rare = request.rare_fields() if request.uses_rare_fields else []
    _check_twins(raw, skim, request, rare)
    _check_number(request, "max_tokens")
    for name in rare:
        _check_number(request, name)
    return request


def is_deeper_than(raw: bytes, depth: int) -> bool:
    """Whether valid JSON nests deeper. One pass, in bounded memory."""
    level = at = 0
    last_quote = raw.rfind(b'"')
    while at < len(raw):
        some = _SOME_STRINGS.match(raw, at) if at < last_quote else None
        end = min(len(raw), at + _WINDOW_BYTES) if some is None else some.end()
        outside = raw[at:end] if some is None else _STRING.sub(b"", raw[at:end])
        at = end
        brackets = outside.translate(None, _NO_BRACKETS)
        if not brackets:
            continue
        if level + len(brackets) > depth and max(accumulate(map(_STEPS.__getitem__, brackets), initial=level)) > depth:
            return True
        level += 2 * len(brackets.translate(None, b"]}")) - len(brackets)
    return False


def spans_of(raw: bytes) -> dict[str, tuple[int, int]] | None:
    """Where the value of each outermost field stands in a JSON object; None if a name occurs twice."""
    spans: dict[str, tuple[int, int]] = {}
    at = raw.index(b"{") + 1
    ended = False
    for name, value in decode_fields(raw).items():
        found = _NAME.match(raw, at)
        if found is None or ended or decode_any(found[1]) != name:
            return None
        start, end = found.end(), found.end() + len(value)
        after = _AFTER_VALUE.match(raw, end)
        if after is None or raw[start:end] != bytes(value):
            return None
        spans[name] = start, end
        at, ended = after.end(), after[1] == b"}"
    return spans if ended or not spans else None


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested too deeply: about {MAX_DEPTH} levels are allowed.")


def _check_utf8(raw: bytes) -> None:
    """In windows, so that a large body is not held twice."""
    view, at = memoryview(raw), 0
    try:
        while at < len(raw):
            at += utf_8_decode(view[at : at + _WINDOW_BYTES], "strict", at + _WINDOW_BYTES >= len(raw))[1]
    except UnicodeDecodeError as error:
        raise InvalidRequest("The body is not valid UTF-8.") from error


def _check_twins(raw: bytes, skim: Skim, request: GenerateRequest, rare: list[str]) -> None:
    """Parsers differ in which of two fields of one name counts, so a field that is acted on occurs once, however spelled.

    Raises:
        InvalidRequest: it occurs twice.
    """
    may_repeat = skim.may_repeat_any(_COMMON_NAMES)
    if not may_repeat and not (request.stream is request.stream_options is UNSET):
        may_repeat = skim.may_repeat_any(_STREAM_NAMES)
    if not may_repeat and request.max_tokens is not UNSET:
        may_repeat = skim.may_repeat_any(_MAX_TOKENS)
    if not may_repeat and rare:
        may_repeat = skim.may_repeat_any([b'"%s"' % name.encode() for name in rare])
    if not may_repeat or spans_of(raw) is not None:
        return
    values = decode_fields(raw)
    for name in (*ALWAYS_LOOKED_AT, *RARE_FIELDS):
        if not skim.may_repeat(name.encode()):
            continue
        pattern = re.compile(rb'"%s"' % b"".join(map(_any_spelling, name.encode())))
        inside = sum(len(pattern.findall(value)) for value in values.values())
        if len(pattern.findall(raw)) - inside > 1:
            raise InvalidRequest(f"The body has more than one field `{name}`.", param=name)


def _any_spelling(byte: int) -> bytes:
    digits = b"%02x" % byte
    digits = b"".join([b"[%s%s]" % (digit.lower(), digit.upper()) for digit in (digits[:1], digits[1:])])
    return rb"(?:%s|\\u00%s)" % (bytes([byte]), digits)


def _check_number(request: GenerateRequest, name: str) -> None:
    """Model servers fail (500) at some numbers that do not fit into what they compute with."""
    raw, largest = getattr(request, name), _MAX_VALUES.get(name)
    if largest is None or raw is UNSET or len(raw) < _NEVER_TOO_LARGE:
        return
    digits = bytes(raw).lstrip(b"-")
    if digits.isdigit() and int(digits[:40]) > largest:
        raise InvalidRequest(f"The number in `{name}` is too large.", param=name)
