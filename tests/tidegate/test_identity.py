"""Internal tokens: what holds where, and what does not."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, OKPKey

from tidegate.errors import ConfigError
from tidegate.identity import ALGORITHM, ISSUER, Caller, Minter, TokenRefused, Verifier, make_keys

CALLER = Caller("acme", "demo", "key1", "default", "req-1")
KEY = OKPKey.generate_key(ALGORITHM, {"use": "sig", "alg": ALGORITHM}, private=True, auto_kid=True)
KEYS = KeySet.import_key_set({"keys": [KEY.as_dict(private=False)]})


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {"iss": ISSUER, "aud": "knowledge", "iat": now, "exp": now + 60, "sub": "key1", "org": "acme"}
    found |= {"project": "demo", "policy": "default", "request_id": "req-1", **changes}
    return {name: value for name, value in found.items() if value is not None}


def signed(key: Any = KEY, algorithm: str = ALGORITHM, **changes: Any) -> str:
    return jwt.encode({"alg": algorithm, "kid": KEY.kid}, claims(**changes), key, algorithms=[algorithm])


def reason_of(token: str, audience: str = "knowledge") -> str:
    with pytest.raises(TokenRefused) as caught:
        Verifier(KEYS, audience).verify(f"Bearer {token}")
    assert caught.value.status == 401 and token not in str(caught.value)
    return caught.value.reason


def test_a_token_carries_principal_and_parent_request() -> None:
    token = Minter(KEY).mint(CALLER, "knowledge")
    found = Verifier(KEYS, "knowledge").verify(f"Bearer {token}")
    assert replace(found, until=0) == CALLER and 0 < found.until - time.time() <= 900


def test_a_token_lives_a_minute_at_most() -> None:
    found = jwt.decode(Minter(KEY).mint(CALLER, "knowledge"), KEYS, algorithms=[ALGORITHM]).claims
    assert 0 < found["exp"] - found["iat"] <= 60
    assert reason_of(signed(exp=int(time.time()) + 600)) == "claims"


def test_replay_at_another_service_is_refused() -> None:
    assert reason_of(Minter(KEY).mint(CALLER, "knowledge"), "agents") == "audience"
    assert reason_of(signed(aud=["agents", "gateway"])) == "audience"
    assert reason_of(signed(aud=None)) in ("audience", "claims")


def test_an_expired_token_is_refused() -> None:
    then = int(time.time()) - 120
    assert reason_of(signed(iat=then, exp=then + 60)) == "expired"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_tampered_token_is_refused(part: int) -> None:
    parts = Minter(KEY).mint(CALLER, "knowledge").split(".")
    parts[part] = parts[part][:-4] + ("AAAA" if parts[part][-4:] != "AAAA" else "BBBB")
    assert reason_of(".".join(parts)) in ("signature", "malformed")


def test_other_keys_and_algorithms_are_refused() -> None:
    other = OKPKey.generate_key(ALGORITHM, private=True)
    assert reason_of(signed(other)) == "signature"
    secret = OctKey.import_key(json.dumps(KEY.as_dict(private=False)))
    assert reason_of(signed(secret, "HS256")) == "malformed"
    plain = "eyJhbGciOiJub25lIn0." + signed().split(".")[1] + "."
    assert reason_of(plain) == "malformed"


@pytest.mark.parametrize("name", ["iss", "exp", "iat", "org", "project", "sub", "policy", "request_id"])
def test_a_token_that_lacks_a_claim_is_refused(name: str) -> None:
    assert reason_of(signed(**{name: None})) in ("claims", "expired")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer x.y.z", "Bearer " + "a" * 9000])
def test_what_is_no_token_is_refused(header: str | None) -> None:
    with pytest.raises(TokenRefused) as caught:
        Verifier(KEYS, "knowledge").verify(header)
    assert caught.value.reason in ("missing", "malformed")


def test_keys_are_made_once_for_the_owner_only_and_published_without_the_private_part(tmp_path: Path) -> None:
    private, public = tmp_path / "s" / "private.json", tmp_path / "s" / "public.json"
    assert make_keys(private, public) and not make_keys(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    assert "d" not in json.loads(public.read_text())["keys"][0]
    token = Minter.read(private).mint(CALLER, "agents")
    assert Verifier.read(public, "agents").verify(f"bearer {token}").key_id == "key1"


def test_missing_or_broken_keys_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("{}")
    for path in (tmp_path / "missing", tmp_path / "broken"):
        with pytest.raises(ConfigError, match="`tidegate init` makes one"):
            Minter.read(path)
        with pytest.raises(ConfigError, match="`tidegate init` makes one"):
            Verifier.read(path, "agents")
