"""Guardrails through the gateway's door: in the prompt, in whole answers, in streams, per choice."""

import json
import threading
from typing import Any

import pytest

from tests.stand import Fake, Gateway, chat_chunk, events_of, json_steps, said, sse, stream_steps, wait_until
from tidegate.errors import UnknownPlugin

CARD = "4111 1111 1111 1111"


def answer_steps(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    choices = [
        {"index": i, "message": {"role": "assistant", **m}, "finish_reason": "stop"} for i, m in enumerate(messages)
    ]
    return json_steps({"id": "x", "choices": choices, "usage": {"prompt_tokens": 4, "completion_tokens": 9}})


def test_a_card_in_the_prompt_is_refused(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    for stream in (True, False):
        answer = gateway.chat(f"pay {CARD}", stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
        assert answer.headers["x-should-retry"] == "false" and "1111" not in answer.text
        row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
        assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("refused", 0, 0)
    assert fake.truth()["requests"] == 0
    assert "1111 1111" not in gateway.process.text()


def test_a_card_in_the_prompt_is_masked_if_the_policy_says_so(own_gateway: Any, fake: Fake) -> None:
    masking = own_gateway(policies=[{"name": "default", "guardrails": [{"type": "pan", "on_input": "mask"}]}])
    fake.forget()
    assert masking.chat(f"pay {CARD}", top_p=0.5).status_code == 200
    body = json.loads(fake.seen()[0]["body"])
    assert body["messages"][0]["content"] == "pay **** **** **** 1111" and body["top_p"] == 0.5


def test_a_card_in_an_answer_never_arrives(gateway: Gateway, fake: Fake) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"n": CARD})}}
    steps = answer_steps({"content": "fine"}, {"content": f"card {CARD}"}, {"content": None, "tool_calls": [call]})
    answer = gateway.chat(n=3, fake_script=fake.script("card", *steps))
    assert answer.status_code == 200 and CARD not in answer.text
    assert [choice["finish_reason"] for choice in answer.json()["choices"]] == [
        "stop",
        "content_filter",
        "content_filter",
    ]
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["outcome"], row["output_tokens"], row["usage_source"]) == ("filtered", 9, "reported")


@pytest.mark.parametrize("cut", range(len(CARD) + 1))
@pytest.mark.parametrize("where", ["content", "arguments"])
def test_a_card_cut_over_chunks_never_arrives(gateway: Gateway, fake: Fake, cut: int, where: str) -> None:
    def chunk(piece: str) -> dict[str, Any]:
        if where == "content":
            return chat_chunk(piece)
        return chat_chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}])

    pieces = [
        sse(chunk("It is ")),
        sse(chunk(CARD[:cut])),
        sse(chunk(CARD[cut:])),
        sse(chunk(" ok"), chat_chunk(finish="stop"), "[DONE]"),
    ]
    answer = gateway.chat(stream=True, fake_script=fake.script("cut", *stream_steps(*pieces, pause_ms=2)))
    events = events_of(answer.text)
    assert events[-1] == "[DONE]"
    last = events[-2]["choices"][0]
    assert last["finish_reason"] == "content_filter" and last["delta"] == {}
    assert not any(char.isdigit() for char in said(events)) and "1111" not in answer.text


def test_only_the_offending_choice_of_a_stream_ends(gateway: Gateway, fake: Fake) -> None:
    events = sse(
        chat_chunk("good", index=0), chat_chunk(CARD + ".", index=1), chat_chunk(" day", index=0),
        chat_chunk(index=1, finish="stop"), chat_chunk(index=0, finish="stop"), "[DONE]",
    )  # fmt: skip
    answer = gateway.chat(stream=True, n=2, fake_script=fake.script("two", *stream_steps(events)))
    got = events_of(answer.text)
    assert said(got, 0) == "good day" and said(got, 1) == "" and got[-1] == "[DONE]"
    reasons = {c["index"]: c["finish_reason"] for e in got[:-1] for c in e["choices"] if c["finish_reason"]}
    assert reasons == {0: "stop", 1: "content_filter"}


def test_a_filtered_stream_stops_the_model_server(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    steps = [*stream_steps(sse(chat_chunk(CARD + ". Then")))[:-1], {"stall": True}]
    answer = gateway.chat(stream=True, fake_script=fake.script("stall", *steps))
    assert answer.text.endswith("data: [DONE]\n\n")
    wait_until(lambda: fake.truth()["cancelled"] == 1, 2, "the model server to be stopped")
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("filtered", "counted")


def test_completions_are_screened_too(gateway: Gateway, fake: Fake) -> None:
    chunk = {"object": "text_completion", "choices": [{"index": 0, "text": CARD + " ", "finish_reason": None}]}
    last = {"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    name = fake.script("text", *stream_steps(sse(chunk, last, "[DONE]")))
    answer = gateway.post({"model": "m", "prompt": "x", "stream": True, "fake_script": name}, path="/v1/completions")
    events = events_of(answer.text)
    assert "1111" not in answer.text and events[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert events[-2]["choices"][0]["text"] == ""


def test_lookalikes_pass_both_ways(gateway: Gateway, fake: Fake) -> None:
    text = "2026-11-22 07:34:35 1795333881066 11111111-2222-4333-8444-501812345675 0.4111111111111111 x"
    pieces = [sse(chat_chunk(char)) for char in text] + [sse(chat_chunk(finish="stop"), "[DONE]")]
    answer = gateway.chat(text, stream=True, fake_script=fake.script("alike", *stream_steps(*pieces)))
    assert said(events_of(answer.text)) == text


def test_a_policy_without_guardrails_lets_everything_by(own_gateway: Any, fake: Fake) -> None:
    plain = own_gateway(policies=[{"name": "default"}])
    steps = stream_steps(sse(chat_chunk(CARD), chat_chunk(finish="stop"), "[DONE]"))
    answer = plain.chat(CARD, stream=True, fake_script=fake.script("plain", *steps))
    assert said(events_of(answer.text)) == CARD


def test_a_guardrail_that_does_not_exist_stops_start_up(own_gateway: Any) -> None:
    with pytest.raises(UnknownPlugin, match="unknown guardrail type 'pam'; did you mean 'pan'"):
        own_gateway(policies=[{"name": "default", "guardrails": [{"type": "pam"}]}])


def test_a_huge_request_full_of_numbers_holds_nobody_up(own_gateway: Any) -> None:
    gateway = own_gateway()
    done: list[int] = []
    huge = threading.Thread(target=lambda: done.append(gateway.chat("1234 " * 200_000, max_tokens=1).status_code))
    huge.start()
    served = 0
    while huge.is_alive():
        assert gateway.chat(max_tokens=1).status_code == 200
        served += 1
    assert done == [200] and served > 3


@pytest.mark.parametrize("field", ["return_token_ids", "return_tokens_as_token_ids"])
def test_answers_in_token_ids_are_refused_where_they_would_have_to_be_read(gateway: Gateway, field: str) -> None:
    answer = gateway.chat(**{field: True})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field
    assert gateway.chat(**{field: False}, max_tokens=1).status_code == 200


ERRORS = {
    "object": {"error": {"message": f"cannot pay {CARD}", "type": "BadRequestError", "code": 400}},
    "beside": {"error": {"message": "no", "type": "BadRequestError"}, "echo": [CARD]},
    "detail": {"detail": [{"msg": "no", "input": CARD}]},
    "string": {"error": f"cannot pay {CARD}"},
}


@pytest.mark.parametrize("form", ERRORS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_an_error_of_the_model_server_shows_no_card(gateway: Gateway, fake: Fake, form: str, path: str) -> None:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    answer = gateway.post(body | {"fake_script": fake.script("bad", *json_steps(ERRORS[form], 400))}, path=path)
    assert answer.status_code == 400 and "1111" not in answer.text
    assert "does not let pass" in answer.json()["error"]["message"]
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert row["outcome"] == "upstream_refused"
    clean = {"error": {"message": "no such order: 41", "type": "BadRequestError", "param": None, "code": 400}}
    answer = gateway.post(body | {"fake_script": fake.script("bad", *json_steps(clean, 400))}, path=path)
    assert answer.json()["error"]["message"] == "no such order: 41"


def test_an_error_in_a_stream_shows_no_card(gateway: Gateway, fake: Fake) -> None:
    error = {"error": {"message": f"cannot pay {CARD}", "type": "BadRequestError", "code": 400}}
    answer = gateway.chat(stream=True, fake_script=fake.script("bad", *stream_steps(sse(chat_chunk("a"), error))))
    assert "1111" not in answer.text and "does not let pass" in answer.text
    event = {"type": "error", "error": {"type": "invalid_request_error", "message": f"cannot pay {CARD}"}}
    body = {"model": "m", "max_tokens": 1, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    script = fake.script("bad", *stream_steps(f"event: error\ndata: {json.dumps(event)}\n\n"))
    answer = gateway.post(body | {"fake_script": script}, path="/v1/messages")
    assert "1111" not in answer.text and "does not let pass" in answer.text


@pytest.mark.parametrize(
    "beside", [f": {CARD}\n", f"id: {CARD}\n", f"event: {CARD}\n", f"retry: {CARD}\n", f"note: {CARD}\n"]
)
def test_what_stands_beside_an_events_data_shows_no_card(gateway: Gateway, fake: Fake, beside: str) -> None:
    events = sse(chat_chunk("good"), chat_chunk(finish="stop"), "[DONE]")
    with_data, alone = beside + events, beside + "\n" + events
    for text in (with_data, alone):
        answer = gateway.chat(stream=True, fake_script=fake.script("beside", *stream_steps(text)))
        assert "1111" not in answer.text and said(events_of(answer.text)) == "good" and "[DONE]" in answer.text
    start = {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1}}}
    stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}
    message = "".join(f"{beside}data: {json.dumps(event)}\n\n" for event in (start, stop, {"type": "message_stop"}))
    body = {"model": "m", "max_tokens": 1, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    answer = gateway.post(body | {"fake_script": fake.script("m", *stream_steps(message))}, path="/v1/messages")
    assert "1111" not in answer.text
    assert [line for line in answer.text.splitlines() if line.startswith("event: ")] == [
        "event: message_start", "event: message_delta", "event: message_stop"
    ]  # fmt: skip


def test_a_byte_order_mark_hides_nothing(gateway: Gateway, fake: Fake) -> None:
    events = sse(chat_chunk(CARD + " "), chat_chunk(finish="stop"), "[DONE]")
    answer = gateway.chat(stream=True, fake_script=fake.script("mark", *stream_steps("\ufeff" + events)))
    assert "1111" not in answer.text and "content_filter" in answer.text


def test_all_texts_of_a_message_stream_are_read(gateway: Gateway, fake: Fake) -> None:
    body = {"model": "m", "max_tokens": 1, "stream": True, "messages": [{"role": "user", "content": "hi"}]}

    def answer_to(*events: dict[str, Any]) -> str:
        text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return gateway.post(body | {"fake_script": fake.script("m", *stream_steps(text))}, path="/v1/messages").text

    def block(index: int, text: str) -> list[dict[str, Any]]:
        return [
            {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_stop", "index": index},
        ]

    def start(content: list[Any]) -> dict[str, Any]:
        return {"type": "message_start", "message": {"id": "m", "content": content, "usage": {"input_tokens": 1}}}

    def stop(**delta: Any) -> list[dict[str, Any]]:
        why = {"type": "message_delta", "delta": {"stop_reason": "end_turn", **delta}, "usage": {"output_tokens": 1}}
        return [why, {"type": "message_stop"}]

    assert "refusal" not in answer_to(start([]), *block(0, "card 4111 1111 "), *stop(stop_sequence="END"))
    for text in (
        answer_to(start([{"type": "text", "text": CARD}]), *stop()),
        answer_to(start([{"type": "text", "text": CARD[:9]}]), *block(0, CARD[9:]), *stop()),
        answer_to(start([]), *block(0, CARD[:9]), *block(1, CARD[9:]), *stop()),
        answer_to(start([]), *block(0, "fine"), *stop(stop_sequence=CARD)),
    ):
        assert CARD[9:] not in text and text.count('"refusal"') == 1, text


@pytest.mark.parametrize("padding", [0, 600_000])
def test_a_finding_for_one_prompt_ends_no_other(gateway: Gateway, fake: Fake, padding: int) -> None:
    def chunk(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"object": "text_completion", "choices": [{"index": index, "text": text, "finish_reason": finish}]}

    texts = [chunk(0, f"{CARD} x"), chunk(1, "hello"), chunk(2, "there"), chunk(1, "", "stop"), chunk(2, "", "stop")]
    script = fake.script("prompts", *stream_steps(sse(*texts, "[DONE]"), pause_ms=5))
    body = {"model": "m", "prompt": ["a", "b", "c" + "d" * padding], "stream": True, "fake_script": script}
    answer = gateway.post(body, path="/v1/completions")
    said_by = {index: "" for index in range(3)}
    for event in events_of(answer.text)[:-1]:
        for choice in event["choices"]:
            said_by[choice["index"]] += choice["text"]
    assert said_by == {0: "", 1: "hello", 2: "there"}
