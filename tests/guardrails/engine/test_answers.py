"""Screening of whole answers."""

import json
from typing import Any

import pytest

from guardrails.engine.answers import screen_answer, screen_message, screen_transcript
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


def test_the_tokens_of_logprobs_are_read() -> None:
    tokens = [{"token": piece} for piece in ("41", "11-1111", "-1111-11", "11")]
    chat = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "logprobs": {"content": tokens}}
    (got,) = screened(chat)
    assert (got["finish_reason"], got["logprobs"], got["message"]["content"]) == ("content_filter", None, "fine")
    text = {
        "index": 0,
        "text": "fine",
        "logprobs": {"tokens": ["4111-1111", "-1111-1111"], "token_logprobs": [-0.1, -2]},
    }
    (got,) = screened(text)
    assert (got["finish_reason"], got["logprobs"], got["text"]) == ("content_filter", None, "fine")
    fine = {"index": 0, "text": "fine", "logprobs": {"tokens": ["4111-1111"], "token_logprobs": [-0.4111111111111111]}}
    assert screened(fine) == [fine]


@pytest.mark.parametrize("screen", [screen_answer, screen_message])
def test_members_that_nobody_knows_are_taken_out_where_they_hold_a_finding(screen: Any) -> None:
    answer = {"id": "x", "choices": [], "content": [], "usage": {"input_tokens": 1}}
    extra = {"notes": {"of": [f"card {CARD}"]}, "rest": "kept"}
    body, verdicts = screen(POLICY, json.dumps(answer | extra).encode())
    assert json.loads(body) == answer | {"rest": "kept"}
    assert [(verdict.guardrail, verdict.findings) for verdict in verdicts] == [("pan", 1)]


def test_the_stop_sequence_of_a_message_is_read() -> None:
    answer = {"id": "x", "content": [{"type": "text", "text": "fine"}], "stop_reason": "stop_sequence"}
    body, verdicts = screen_message(POLICY, json.dumps(answer | {"stop_sequence": CARD}).encode())
    assert json.loads(body) == answer | {"stop_reason": "refusal", "stop_sequence": None} and len(verdicts) == 1


@pytest.mark.parametrize("choices", [[1], ["a"], [None], [[]], {"message": 1}, "4111111111111111", 4111111111111111])
def test_choices_of_another_form_do_not_pass(choices: Any) -> None:
    raw = json.dumps({"choices": choices, "padding": "000000000000"}).encode()
    with pytest.raises(UpstreamBroken):
        screen_answer(POLICY, raw)
    with pytest.raises(UpstreamBroken):
        screen_message(POLICY, raw.replace(b"choices", b"content"))


@pytest.mark.parametrize("message", [1, ["4111111111111111"], {"content": ["4111111111111111"]}, "4111111111111111"])
def test_messages_of_any_form_are_read(message: Any) -> None:
    body, _ = screen_answer(POLICY, json.dumps({"choices": [{"message": message}]}).encode())
    assert "4111111111111111" not in body.decode()


@pytest.mark.parametrize(
    "logprobs",
    [
        "4111111111111111", ["4111111111111111"], 7, {"tokens": 1}, {"tokens": ["4111111111111111"]}, {"content": {}},
        {"refusal": [{"token": "41111111"}, {"token": "11111111"}]},
    ],
)  # fmt: skip
def test_logprobs_of_any_form_are_read(logprobs: Any) -> None:
    raw = json.dumps({"choices": [{"text": "a 000000000000", "logprobs": logprobs}]}).encode()
    assert b"41111111" not in screen_answer(POLICY, raw)[0]


@pytest.mark.parametrize("cut", range(1, len(CARD)))
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_a_card_that_reasoning_begins_and_content_ends_is_found(name: str, cut: int) -> None:
    message = {"role": "assistant", "content": CARD[cut:] + " ok", name: "so " + CARD[:cut]}
    (got,) = screened({"index": 0, "message": message})
    assert (got["finish_reason"], name in got["message"]) == ("content_filter", False)


@pytest.mark.parametrize("cut", range(1, len(CARD)))
@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_card_that_lies_across_blocks_of_a_message_is_found(kind: str, cut: int) -> None:
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    blocks = [{"type": kind, kind: "so " + CARD[:cut]}, tool, {"type": "text", "text": CARD[cut:] + " ok"}]
    body, verdicts = screen_message(POLICY, json.dumps({"content": blocks, "stop_reason": "end_turn"}).encode())
    assert json.loads(body) == {"content": blocks[:2], "stop_reason": "refusal", "stop_sequence": None} and verdicts
    apart = [{"type": "text", "text": "so " + CARD[:cut]}, {"type": "text", "text": "; " + CARD[cut:]}]
    raw = json.dumps({"content": apart}).encode()
    assert screen_message(POLICY, raw) == (raw, [])


def test_a_transcript_in_json_is_read_as_json_whatever_stands_before_it() -> None:
    body, verdicts = screen_transcript(POLICY, b' \n{"text":"\\u0034111 1111 1111 1111"}')
    assert b"1111 1111 1111" not in body and len(verdicts) == 1
