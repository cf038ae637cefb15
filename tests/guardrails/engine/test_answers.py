"""Screening of whole answers."""

import json
from typing import Any

import pytest

from guardrails.engine.answers import screen_answer
from guardrails.engine.policy import build_policy
from tidegate.config import resources
from tidegate.config.settings import PluginSpec
from tidegate.errors import UpstreamBroken

POLICY = build_policy(resources.Policy(name="p", guardrails=[PluginSpec(type="pan")]))
CARD = "4111-1111-1111-1111"


def screened(*choices: dict[str, Any]) -> list[dict[str, Any]]:
    raw = json.dumps({"id": "x", "choices": list(choices), "usage": {"prompt_tokens": 1}}).encode()
    body, _ = screen_answer(POLICY, raw)
    got = json.loads(body)
    assert got["id"] == "x" and got["usage"] == {"prompt_tokens": 1}
    assert CARD not in body.decode()
    return list(got["choices"])


def test_the_offending_choice_ends_before_the_card_and_the_other_stays() -> None:
    first = {
        "index": 0,
        "message": {"role": "assistant", "content": "fine"},
        "finish_reason": "stop",
        "stop_reason": None,
    }
    second = {
        "index": 1,
        "message": {"role": "assistant", "content": f"it is {CARD} ok"},
        "logprobs": {"content": [{"token": "4111"}]},
        "token_ids": [4, 1],
        "finish_reason": "stop",
    }
    got = screened(first, second)
    assert got[0] == first
    assert got[1] == {
        "index": 1,
        "logprobs": None,
        "finish_reason": "content_filter",
        "message": {"role": "assistant", "content": "it is "},
    }


def test_tool_call_arguments_are_read() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": json.dumps({"card": CARD})}}
    (got,) = screened(
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            "finish_reason": "tool_calls",
        }
    )
    assert got["finish_reason"] == "content_filter" and "tool_calls" not in got["message"]


def test_completions_are_read() -> None:
    (got,) = screened({"index": 0, "text": f"so {CARD}", "finish_reason": "stop"})
    assert got["text"] == "so " and got["finish_reason"] == "content_filter"


def test_a_clean_answer_is_the_same_object() -> None:
    raw = b'{"choices":[{"index":0,"message":{"content":"42"},"finish_reason":"stop"}]}'
    assert screen_answer(POLICY, raw)[0] is raw


def test_what_cannot_be_read_does_not_pass() -> None:
    with pytest.raises(UpstreamBroken):
        screen_answer(POLICY, b'{"choices": 4111111111111111 nonsense')
