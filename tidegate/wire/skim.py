"""What can be known of a JSON text without decoding it, for little more than finding its quotes: long texts are passed over."""

_NO_OPENINGS = bytes(set(range(256)) - set(b"[{"))

_LARGE_BYTES, _MANY = 16_384, 1000


class Skim:
    """One look at `raw`; everything here may be wrong in one direction only, which the names tell."""

    __slots__ = ("_escaped", "_long_texts", "_pieces", "_plain", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        large = len(raw) >= _LARGE_BYTES
        self._escaped = b"\\" in raw
        self._plain = not large and not self._escaped
        """Small and without escapes, as nearly all are: looking at all of it is the least."""
        self._pieces = _split(raw) if large else [] if self._plain else raw.split(b'"')
        self._long_texts = large and len(self._pieces) <= _MANY
        """So that looking at each piece's end is less than looking at all of `raw`."""

    def may_nest_deeper_than(self, depth: int) -> bool:
        """False only if it does not."""
        if self._plain and len(self._raw.translate(None, _NO_OPENINGS)) <= depth:
            return False
        pieces = self._raw.split(b'"') if self._plain else self._pieces
        unclear = self._escaped and any(piece.endswith(b"\\") for piece in pieces)  # a quote may be part of a text
        outside = self._raw if unclear else b"".join(pieces[::2])
        return len(outside.translate(None, _NO_OPENINGS)) > depth

    def may_repeat(self, name: bytes) -> bool:
        """False only if no two strings or names are `name`, however they are spelled."""
        if self._plain:
            return self._raw.count(b'"%s"' % name) > 1
        return self._pieces.count(name) > 1 or self._may_disguise(6 * len(name))

    def may_have_names_ending_in(self, suffix: bytes) -> bool:
        """False only if no string or name ends in `suffix`, however it is spelled."""
        if self._may_disguise(6 * len(suffix)):
            return True
        if self._long_texts:
            return any(piece.endswith(suffix) for piece in self._pieces)
        return suffix + b'"' in self._raw

    def _may_disguise(self, length: int) -> bool:
        """Whether the last `length` bytes of any string have an escape that may stand for a plain character."""
        if not self._escaped:
            return False
        if len(self._pieces) > _MANY:
            return b"\\u00" in self._raw
        return any(b"\\u00" in piece[-length:] for piece in self._pieces)

    def may_hold(self, beginning: bytes) -> bool:
        """False only if no string begins with `beginning`, as it stands or behind an escape."""
        if self._long_texts:
            return any(piece.startswith(beginning) for piece in self._pieces)
        return b'"' + beginning in self._raw


def _split(raw: bytes) -> list[bytes]:
    """At the quotes, as `bytes.split`; looking for the next one is ten times as fast where they are far between."""
    pieces: list[bytes] = []
    at = 0
    while len(pieces) < _MANY:
        quote = raw.find(b'"', at)
        if quote < 0:
            return [*pieces, raw[at:]]
        pieces.append(raw[at:quote])
        at = quote + 1
    return pieces + raw[at:].split(b'"')
