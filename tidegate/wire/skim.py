"""What can be known of a JSON text without decoding it, for little more than finding its quotes: long texts are passed over."""

import re

_NO_OPENINGS = bytes(set(range(256)) - set(b"[{"))
DISGUISE = re.compile(rb"\\u00(?:5[fF]|[67])")
"""An escape in place of a character that names consist of."""

_LARGE_BYTES, _MANY = 16_384, 1000
_MAX_INLINE_BYTES, _MAX_INLINE_TOKENS = 262_144, 8_000


def is_large(raw: bytes) -> bool:
    """Whether looking at `raw` takes milliseconds, so that it is done in another process."""
    if len(raw) < _LARGE_BYTES:
        return False
    return len(raw) >= _MAX_INLINE_BYTES or raw.count(b'"') + raw.count(b"[") + raw.count(b"{") > _MAX_INLINE_TOKENS


class Skim:
    """One look at `raw`; everything here may be wrong in one direction only, which the names tell."""

    __slots__ = ("_escaped", "_pieces", "_plain", "_raw", "disguises")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        large = len(raw) >= _LARGE_BYTES
        self._escaped = b"\\" in raw
        self.disguises = self._escaped and b"\\u00" in raw and DISGUISE.search(raw) is not None
        """Whether names may be spelled with escapes."""
        self._plain = not large and not self._escaped
        """Small and without escapes, as nearly all are: looking at all of it is the least."""
        self._pieces = _split(raw) if large else None
        """Of a large text with few quotes, so that looking at each piece's end is less than looking at all of `raw`."""

    def may_nest_deeper_than(self, depth: int) -> bool:
        """False only if it does not."""
        if self._plain and len(self._raw.translate(None, _NO_OPENINGS)) <= depth:
            return False
        pieces = self._pieces if self._pieces is not None else self._raw.split(b'"') if self._is_small() else None
        if pieces is None:
            return len(self._raw.translate(None, _NO_OPENINGS)) > depth
        unclear = self._escaped and any(piece.endswith(b"\\") for piece in pieces)  # a quote may be part of a text
        outside = self._raw if unclear else b"".join(pieces[::2])
        return len(outside.translate(None, _NO_OPENINGS)) > depth

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

    def _is_small(self) -> bool:
        return len(self._raw) < _LARGE_BYTES

    def _count(self, name: bytes) -> int:
        return self._raw.count(b'"%s"' % name) if self._pieces is None else self._pieces.count(name)


def _split(raw: bytes) -> list[bytes] | None:
    """At the quotes, as `bytes.split`; looking for the next one is ten times as fast where they are far between.

    None if there are many.
    """
    pieces: list[bytes] = []
    at = 0
    while len(pieces) < _MANY:
        quote = raw.find(b'"', at)
        if quote < 0:
            return [*pieces, raw[at:]]
        pieces.append(raw[at:quote])
        at = quote + 1
    return None
