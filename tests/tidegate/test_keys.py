"""The form of an API key."""

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import ConfigError
from tidegate.keys import Pepper, checksum, key_id_of, read_pepper

SECRET = "a" * 32
TOKEN = f"tg-abcdefghijkl-{SECRET}{checksum('abcdefghijkl' + SECRET)}"


def test_a_good_key_tells_its_id() -> None:
    assert key_id_of(TOKEN) == "abcdefghijkl"


@given(st.integers(3, len(TOKEN) - 1), st.sampled_from("xyzXYZ789"))
def test_a_typing_error_is_noticed_without_asking_anybody(position: int, char: str) -> None:
    wrong = TOKEN[:position] + char + TOKEN[position + 1 :]
    assert wrong == TOKEN or key_id_of(wrong) is None


@pytest.mark.parametrize("token", ["", "tg-", "sk-123", TOKEN + "x", " " + TOKEN, "tg-" + "é" * 50])
def test_what_is_not_a_key_is_none(token: str) -> None:
    assert key_id_of(token) is None


def test_the_pepper_matters() -> None:
    assert Pepper(b"a" * 32).digest(TOKEN) != Pepper(b"b" * 32).digest(TOKEN)


def test_a_short_or_missing_pepper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tidegate init"):
        read_pepper(tmp_path / "none")
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match="at least 32 bytes"):
        read_pepper(tmp_path / "short")


@pytest.mark.parametrize("length", [32, 63, 64, 65, 200])
def test_a_digest_is_hmac_sha_256(length: int) -> None:
    secret = bytes(range(length))
    assert Pepper(secret).digest(TOKEN) == hmac.digest(secret, TOKEN.encode(), "sha256").hex()
