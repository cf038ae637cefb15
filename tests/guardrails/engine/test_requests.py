"""Screening of requests: refuse, mask, and media that the model server would fetch."""

import json

import pytest

from guardrails.engine.media import check_media
from guardrails.engine.policy import Policy, build_policy
from guardrails.engine.requests import Refused, screen_request
from tidegate.config import resources
from tidegate.config.settings import PluginSpec
from tidegate.errors import InvalidRequest
from tidegate.wire.skim import Skim

CARD = "4111 1111 1111 1111"


def policy(**pan: str) -> Policy:
    spec = PluginSpec.model_validate({"type": "pan", **pan})
    return build_policy(resources.Policy(name="p", guardrails=[spec]))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": CARD}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": f"x {CARD}"}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "1", "content": CARD}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": json.dumps({"n": CARD})}}]}]},
        {"prompt": ["fine", CARD]},
        {"tools": [{"function": {"description": CARD}}]},
        {"metadata": {CARD: "key"}},
        {"metadata": {"n": 4111111111111111}},
        {"metadata": {"n": 4111111111111111.0}},
        {"messages": [{"role": "user", "content": "４１１１ １１１１ １１１１ １１１１"}]},
    ],
)
def test_a_card_anywhere_in_the_body_is_refused(body: dict[str, object]) -> None:
    for ascii_only in (True, False):
        with pytest.raises(Refused) as caught:
            screen_request(policy(), json.dumps(body, ensure_ascii=ascii_only).encode())
        assert caught.value.verdicts[0].findings == 1
        assert "1111" not in caught.value.message


def test_escaped_digits_are_digits() -> None:
    raw = b'{"messages":[{"content":"' + "".join(f"\\u00{ord(c):02x}" for c in CARD).encode() + b'"}]}'
    with pytest.raises(Refused):
        screen_request(policy(), raw)


def test_a_clean_body_is_the_same_object() -> None:
    raw = json.dumps({"messages": [{"content": "order 4929123456789012"}], "seed": 1}).encode()
    body, verdicts = screen_request(policy(), raw)
    assert body is raw and verdicts == []


def test_masking_changes_only_the_digits() -> None:
    sent = {
        "messages": [{"role": "user", "content": f"pay {CARD} now"}],
        "temperature": 0.5,
        "x": {"y": [1, None, True]},
    }
    body, verdicts = screen_request(policy(on_input="mask"), json.dumps(sent).encode())
    got = json.loads(body)
    assert got["messages"][0]["content"] == "pay **** **** **** 1111 now"
    assert {key: got[key] for key in ("temperature", "x")} == {key: sent[key] for key in ("temperature", "x")}
    assert verdicts[0].action == "mask"


def test_off_is_off() -> None:
    raw = json.dumps({"messages": [{"content": CARD}]}).encode()
    assert screen_request(policy(on_input="off"), raw) == (raw, [])


def test_inline_media_is_not_searched_but_text_that_looks_like_it_is() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA4111111111111111BBBB"}}
    raw = json.dumps({"messages": [{"content": [image]}]}).encode()
    assert screen_request(policy(), raw) == (raw, [])
    with pytest.raises(Refused):
        screen_request(policy(), json.dumps({"messages": [{"content": f"data:,{CARD}"}]}).encode())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": "https://example.org/x.png"},
        {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
        {"type": "audio_url", "audio_url": {"url": " HTTP://intranet/a.wav"}},
        {"image_url": {"url": "ftp://x"}},
    ],
)
def test_media_that_the_server_would_fetch_is_refused(part: dict[str, object]) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
    for form in (raw, raw.replace(b"_url", b"\\u005furl")):
        with pytest.raises(InvalidRequest) as caught:
            check_media(policy(), form, Skim(form))
        assert caught.value.error_code == "media_url_not_allowed"


def test_inline_media_passes() -> None:
    part = {"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA", "detail": "low"}}
    for raw in (
        json.dumps({"messages": [{"content": [part]}]}).encode(),
        b'{"messages":[{"content":"see my_url http://x"}]}',
    ):
        check_media(policy(), raw, Skim(raw))
