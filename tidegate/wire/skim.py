"""What can be known of a JSON text without decoding it, for little more than finding its quotes: long texts are passed over."""

import re
from collections.abc import Sequence

from tidegate.wire.openai import TEXT_MEMBERS

_NO_OPENINGS = bytes(set(range(256)) - set(b"[{"))
DISGUISE = re.compile(rb"\\u00(?:5[fF]|[67])")
"""An escape in place of a character that names consist of."""

MAX_INLINE_BYTES = 524_288
"""Longer bodies are looked at in another process."""
_MAX_INLINE_PARTS_BYTES = 131_072
"""Likewise longer ones of several parts, whose texts are joined to be looked at, or with escapes in names."""
_TEXT_MEMBERS = tuple(name.encode() for name in TEXT_MEMBERS)
_SMALL_BYTES, _LARGE_BYTES = 2_048, 16_384
_MANY_IN_SMALL, _MANY = 400, 1000
_MAX_INLINE_TOKENS = 8_000
_LONGEST_NAME_BYTES = 256
"""More than the longest name that is acted on has, every character escaped."""


class Skim:
    """One look at `raw`; everything here may be wrong in one direction only, which the names tell."""

    __slots__ = ("_disguises", "_escaped", "_outside", "_pieces", "_plain", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        size = len(raw)
        self._escaped = b"\\" in raw
        self._plain = size < _SMALL_BYTES and not self._escaped
        """Small and without escapes, as nearly all are: looking at all of it is the least."""
        self._pieces = None if self._plain else _split(raw)
        """Of a text with few quotes, so that looking at each piece's end is less than looking at all of `raw`."""
        self._outside: bytes | None = None
        self._disguises: bool | None = None if self._escaped else False

    @property
    def disguises(self) -> bool:
        """Whether names that the gateway acts on, or the last letters of any name, may be spelled with escapes."""
        if self._disguises is None:
            where = [self._raw] if self._pieces is None else [piece[-_LONGEST_NAME_BYTES:] for piece in self._pieces]
            self._disguises = any(b"\\u00" in some and DISGUISE.search(some) is not None for some in where)
        return self._disguises

    def is_dense(self) -> bool:
        """Whether it has so many strings or values that looking at them takes milliseconds."""
        if len(self._raw) < _LARGE_BYTES:
            return False
        if len(self._raw) > _MAX_INLINE_PARTS_BYTES and (
            self._pieces is None or self.disguises or sum(map(self._pieces.count, _TEXT_MEMBERS)) > 1
        ):
            return True
        raw = self._raw if self._pieces is None else self._outside_strings()
        return sum(map(raw.count, b'"[{,')) > _MAX_INLINE_TOKENS

    def may_nest_deeper_than(self, depth: int) -> bool:
        """False only if it does not."""
        outside = self._raw if self._plain else self._outside_strings()
        return len(outside.translate(None, _NO_OPENINGS)) > depth

    def may_repeat_any(self, names: Sequence[bytes]) -> bool:
        """False only if none of `names`, each in quotes, stands there twice, however it is spelled."""
        if self.disguises:
            return True
        raw, pieces = self._raw, self._pieces
        for name in names:  # noqa: SIM110 - a generator would cost as much as the search
            if (raw.count(name) if pieces is None else pieces.count(name[1:-1])) > 1:
                return True
        return False

    def may_have(self, name: bytes) -> bool:
        """False only if no string or name is `name`, however it is spelled."""
        return self.disguises or self._count(name) > 0

    def may_repeat(self, name: bytes) -> bool:
        """False only if no two strings or names are `name`, however they are spelled."""
        return self.disguises or self._count(name) > 1

    def may_have_names_ending_in(self, suffix: bytes) -> bool:
        """False only if no string or name ends in `suffix`, however it is spelled."""
        if self.disguises:
            return True
        if self._pieces is not None:
            return any(piece.endswith(suffix) for piece in self._pieces)
        return suffix + b'"' in self._raw

    def may_hold(self, beginning: bytes) -> bool:
        """False only if no string begins with `beginning`, as it stands or behind an escape."""
        if self._pieces is not None:
            return any(piece.startswith(beginning) for piece in self._pieces)
        return b'"' + beginning in self._raw

    def _outside_strings(self) -> bytes:
        """What stands outside strings; all of `raw` where that is not easily seen."""
        outside = self._outside
        if outside is None:
            pieces = self._pieces
            unclear = pieces is None or (self._escaped and any(piece.endswith(b"\\") for piece in pieces))
            outside = self._outside = self._raw if pieces is None or unclear else b"".join(pieces[::2])
        return outside

    def _count(self, name: bytes) -> int:
        return self._raw.count(b'"%s"' % name) if self._pieces is None else self._pieces.count(name)


def _split(raw: bytes) -> list[bytes] | None:
    """At the quotes, as `bytes.split`; None if there are many.

    In a large text, looking for the next one is ten times as fast where they are far between.
    """
    pieces: list[bytes] = []
    if len(raw) < _LARGE_BYTES:
        pieces = raw.split(b'"', _MANY_IN_SMALL)
        return pieces if len(pieces) <= _MANY_IN_SMALL else None
    at = 0
    while len(pieces) < _MANY:
        quote = raw.find(b'"', at)
        if quote < 0:
            return [*pieces, raw[at:]]
        pieces.append(raw[at:quote])
        at = quote + 1
    return None
