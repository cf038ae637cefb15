"""Internal tokens at a tool server, which checks them with code of its own: what holds for the others holds here."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mcp_servers.hosting.tokens import Refused, TokenChecker
from tests.tidegate.test_identity import CALLER, KEY, signed
from tidegate.identity import Minter


@pytest.fixture
def checker(tmp_path: Path) -> TokenChecker:
    (tmp_path / "public.json").write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    return TokenChecker(tmp_path / "public.json", "mcp:calendar")


def reason_of(checker: TokenChecker, token: str) -> str:
    with pytest.raises(Refused) as caught:
        checker.check(f"Bearer {token}", None)
    return str(caught.value)


def test_a_token_for_this_server_holds(checker: TokenChecker) -> None:
    found = checker.check(f"bearer {Minter(KEY).mint(CALLER, 'mcp:calendar')}", "delegated")
    assert (found.organisation, found.project, found.request_id) == ("acme", "demo", "req-1")
    assert found.delegation == "delegated"


@pytest.mark.parametrize("audience", ["mcp:knowledge", "mcp:calendar2", "gateway", ["mcp:faulty", "agents"]])
def test_replay_at_another_server_is_refused(checker: TokenChecker, audience: Any) -> None:
    assert reason_of(checker, signed(aud=audience)) == "audience"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iat": int(time.time()) - 200, "exp": int(time.time()) - 140}, "expired"),
        ({"exp": int(time.time()) + 600}, "claims"),
        ({"iss": "somebody"}, "claims"),
        ({"aud": None}, "audience"),
        *(({name: None}, "claims") for name in ("iss", "exp", "iat")),
        *(({name: None}, "malformed") for name in ("org", "project", "request_id")),
    ],
)
def test_a_token_that_is_too_old_or_lacks_a_claim_is_refused(
    checker: TokenChecker, changes: dict[str, Any], reason: str
) -> None:
    assert reason_of(checker, signed(**{"aud": "mcp:calendar", **changes})) == reason


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_tampered_token_is_refused(checker: TokenChecker, part: int) -> None:
    parts = Minter(KEY).mint(CALLER, "mcp:calendar").split(".")
    parts[part] = parts[part][:-4] + ("AAAA" if parts[part][-4:] != "AAAA" else "BBBB")
    assert reason_of(checker, ".".join(parts)) in ("signature", "malformed")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "Bearer x.y.z", "Bearer " + "a" * 9000])
def test_what_is_no_token_is_refused(checker: TokenChecker, header: str) -> None:
    with pytest.raises(Refused, match=r"missing|malformed"):
        checker.check(header, None)
