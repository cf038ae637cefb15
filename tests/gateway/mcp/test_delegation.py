"""What a service may do for a caller ends with the original request's deadline, however often it is passed on."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from tests.stand import Fake, Gateway, free_port, http, json_steps
from tests.tool_stand import ToolServer, call
from tidegate.identity import ALGORITHM, ISSUER, make_keys


class Stand:
    """A gateway; a tool server that acts for its caller; every other service is the fake, which shows what it was sent."""

    def __init__(self, folder: Path, fake: Fake) -> None:
        keys = {"signing_key_file": str(folder / "private.json"), "public_keys_file": str(folder / "public.json")}
        make_keys(folder / "private.json", folder / "public.json")
        port, gateway = free_port(), folder / "gateway"
        gateway.mkdir()
        self.key = OKPKey.import_key(json.loads((folder / "private.json").read_text()))
        self.public = KeySet.import_key_set(json.loads((folder / "public.json").read_text()))
        self.tools = ToolServer(folder, "faulty", folder / "public.json")
        self.gateway = Gateway(
            gateway,
            [fake.url],
            models=[
                {"name": "m", "replicas": [{"url": fake.url}]},
                {"name": "embedder", "replicas": [{"url": fake.url, "audience": "knowledge"}]},
            ],
            presets=[{"name": "asked", "model": "m", "vector_stores": ["locks"]}],
            projects=[{"name": "demo", "all_models": True, "all_mcp_servers": True}],
            mcp_servers=[{"name": "faulty", "url": self.tools.url, "acts_for_caller": True}],
            settings={
                "identity": keys,
                "gateway": {"port": port},
                "knowledge": {"url": fake.url},
                "agents": {"url": fake.url},
            },
        )
        self.url = f"{self.gateway.url}/mcp/faulty"

    def token(self, left_s: int, **changes: Any) -> str:
        """A token with which a service acts for the caller, in the course of a request whose deadline is `left_s` away."""
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": "gateway", "iat": now, "exp": now + 60, "sub": self.gateway.key.split("-")[1],
            "org": "acme", "project": "demo", "policy": "default", "request_id": "req-0", "until": now + left_s, **changes,
        }  # fmt: skip
        return jwt.encode({"alg": ALGORITHM, "kid": self.key.kid}, claims, self.key, algorithms=[ALGORITHM])

    def claims(self, token: str) -> dict[str, Any]:
        return jwt.decode(token, self.public, algorithms=[ALGORITHM]).claims

    def hops(self, token: str, left: int) -> list[dict[str, Any]]:
        """What the tokens of a chain of tool calls say."""
        found = call(self.url, token, "pass_on", gateway=self.url, left=left)
        if found.is_error:
            raise AssertionError(found.content[0].text)
        return [self.claims(token) for token in found.structured_content["result"]]

    def refusals(self, token: str) -> set[tuple[int, str]]:
        """How every kind of path answers a token; `/internal` is not there for one that does not hold."""
        headers = {"authorization": f"Bearer {token}"}
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        answers = [
            http.post(f"{self.gateway.url}{path}", headers=headers, json=chat)
            for path in ("/v1/chat/completions", "/v1/responses", "/mcp", "/mcp/faulty", "/internal/delegations")
        ]
        answers.append(http.get(f"{self.gateway.url}/v1/models", headers=headers))
        assert answers[4].status_code in (403, 404)
        return {(answer.status_code, answer.json()["error"]["code"]) for answer in answers if answer.status_code != 404}


@pytest.fixture(scope="module")
def stand(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    made = Stand(tmp_path_factory.mktemp("delegation"), fake)
    yield made
    made.gateway.process.stop()
    made.tools.process.stop()


def test_a_delegation_that_is_passed_on_ends_when_the_first_one_does(stand: Stand) -> None:
    found = stand.hops(stand.gateway.key, 3)
    until = found[0]["until"]
    assert 0 < until - time.time() <= 900 and [hop["until"] for hop in found] == [until] * 4
    assert [hop["depth"] for hop in found] == [0, 1, 2, 3]
    rows = [stand.gateway.usage_of(hop["request_id"]) for hop in found]
    assert [row["parent_request_id"] for row in rows] == [None, *(hop["request_id"] for hop in found[:-1])]


def test_no_token_outlives_the_original_deadline(stand: Stand) -> None:
    token = stand.token(30)
    until = stand.claims(token)["until"]
    found = stand.hops(token, 2)
    assert [(hop["until"], hop["exp"]) for hop in found] == [(until, until)] * 3
    renewed = http.post(
        f"{stand.gateway.url}/internal/delegations", headers={"authorization": f"Bearer {token}"}
    ).json()["token"]
    assert (stand.claims(renewed)["until"], stand.claims(renewed)["exp"]) == (until, until)


def test_services_of_every_kind_get_the_original_deadline(stand: Stand, fake: Fake) -> None:
    token = stand.token(30)
    until = stand.claims(token)["until"]
    passages: dict[str, Any] = {"object": "list", "data": []}
    fake.turn("m", fake.script("delegated", *json_steps(passages)), "delegated", "delegated", "delegated")
    fake.turn("embedder", "delegated")
    fake.turn("fake", "delegated")
    fake.forget()
    chat = {"messages": [{"role": "user", "content": "hi"}], "input": "hi", "query": "hi"}
    for path, model in (
        ("/v1/responses", "m"),
        ("/v1/vector_stores/vs_1/search", "m"),
        ("/v1/embeddings", "embedder"),
        ("/v1/chat/completions", "asked"),
    ):
        headers = {"authorization": f"Bearer {token}"}
        http.post(f"{stand.gateway.url}{path}", headers=headers, json={"model": model, **chat}, timeout=20)
    fake.turn("m")
    sent = [dict(seen["headers"]) for seen in fake.seen()]
    tokens = [head["authorization"].removeprefix("Bearer ") for head in sent if "authorization" in head]
    tokens += [head["x-tidegate-delegation"] for head in sent if "x-tidegate-delegation" in head]
    found = [stand.claims(token) for token in tokens]
    assert {claims["aud"] for claims in found} == {"agents", "gateway", "knowledge"} and len(found) >= 5
    assert {(claims["until"], claims["exp"], claims["depth"]) for claims in found} == {(until, until, 1)}


def test_after_the_deadline_nothing_is_done_for_the_caller(stand: Stand) -> None:
    for left_s in (0, -1, -800):
        assert stand.refusals(stand.token(left_s)) == {(403, "delegation_over")}
    assert stand.refusals(stand.token(60, until=None)) == {(401, "invalid_internal_token")}


def test_a_tool_that_calls_itself_comes_to_an_end(stand: Stand) -> None:
    with pytest.raises(AssertionError) as caught:
        stand.hops(stand.gateway.key, 30)
    assert str(caught.value).count("Error executing tool") == 9, "eight delegated calls, and the one with the key"
    assert stand.refusals(stand.token(60, depth=8)) == {(403, "delegation_over")}
    assert stand.refusals(stand.token(60, depth="0")) == {(401, "invalid_internal_token")}
