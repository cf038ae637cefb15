"""API keys: their form, and what is kept of them. A key itself is never stored, only its HMAC.

Form: `tg-<id: 12 letters and digits>-<secret: 32><checksum: 6>`. The prefix lets secret scanners find leaked keys, the
checksum lets them and us tell a typing error from an unknown key without asking anybody.
"""

import hashlib
import re
import string
import zlib
from pathlib import Path

from tidegate.errors import ConfigError

ALPHABET = string.ascii_letters + string.digits
KEY_ID = slice(3, 15)
"""Where the id stands in a key."""
KEY_FORM = re.compile(r"tg-([A-Za-z0-9]{12})-([A-Za-z0-9]{32})([A-Za-z0-9]{6})")


class Pepper:
    """Hashes keys under one secret.

    Both halves of HMAC (RFC 2104) begin with the secret, so they are begun once and copied for every key: half of what the
    standard library's own costs, which every request pays.
    """

    def __init__(self, secret: bytes) -> None:
        block = secret if len(secret) <= 64 else hashlib.sha256(secret).digest()
        block = block.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in block]))
        self._outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in block]))

    def digest(self, token: str) -> str:
        """What is stored of a key: HMAC-SHA-256, hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(token.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


def read_pepper(path: Path) -> Pepper:
    """The secret that keys are hashed with.

    Raises:
        ConfigError: missing or too short.
    """
    try:
        pepper = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"auth.key_pepper_file {path}: {error.strerror}; `tidegate init` makes one") from error
    if len(pepper) < 32:
        raise ConfigError(f"auth.key_pepper_file {path}: needs at least 32 bytes, has {len(pepper)}")
    return Pepper(pepper)


def key_id_of(token: str) -> str | None:
    """The id inside a well-formed key whose checksum holds, else None."""
    match = KEY_FORM.fullmatch(token)
    if match is None or checksum(match[1] + match[2]) != match[3]:
        return None
    return match[1]


def checksum(text: str) -> str:
    """CRC-32 in six characters of base 62."""
    value, out = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, rest = divmod(value, 62)
        out += ALPHABET[rest]
    return out
