"""The stream screen: nothing of a card number goes out wherever the stream is cut, and nothing else is held up."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails import pan
from guardrails.engine.streams import StreamScreen
from tests.guardrails.cards import CARDS, groupings
from tests.guardrails.test_pan import hexadecimal
from tidegate.errors import UpstreamBroken
from tidegate.wire.openai import UNREADABLE, decode_chunk
from tidegate.wire.sse import data_of

PAN = (pan.build(pan.Config(), None),)


def event(index: int = 0, finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return (
        b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


def play(events: list[bytes], choices: int = 1) -> tuple[list[bytes], StreamScreen]:
    """What goes out of a screen that is fed `events`."""
    screen = StreamScreen(PAN, choices)
    out: list[bytes] = []
    for item in events:
        out += screen.feed(item, decode_chunk(data_of(item)))
        if screen.ended:
            break
    return out + screen.finish(), screen


def texts(out: list[bytes], index: int = 0) -> str:
    said = ""
    for item in out:
        for choice in json.loads(data_of(item)).get("choices", []):
            if choice["index"] == index:
                said += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls", []):
                    said += call["function"].get("arguments", "")
    return said


def reasons(out: list[bytes], index: int = 0) -> list[str]:
    choices = [choice for item in out for choice in json.loads(data_of(item)).get("choices", [])]
    return [choice["finish_reason"] for choice in choices if choice["index"] == index and choice["finish_reason"]]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("separator", ["", " ", "-", "."])
def test_a_card_cut_in_two_anywhere_never_goes_out(card: str, separator: str) -> None:
    for groups in groupings(card):
        text = f"Your card is {separator.join(groups)}, thanks."
        for cut in range(len(text) + 1):
            out, screen = play([event(content=text[:cut]), event(content=text[cut:]), event(finish="stop")])
            digits = "".join(filter(str.isdigit, texts(out)))
            assert digits == "" and reasons(out) == ["content_filter"] and screen.ended, (text, cut)


@pytest.mark.parametrize("length", [32, 40, 64])
def test_a_hexadecimal_id_cut_in_two_anywhere_goes_out_whole(length: int) -> None:
    text = f"see call_{hexadecimal('4111111111111111', length)}, thanks."
    for cut in range(len(text) + 1):
        out, _ = play([event(content=text[:cut]), event(content=text[cut:]), event(finish="stop")])
        assert texts(out) == text and reasons(out) == ["stop"], cut
    one_by_one = [event(content=char) for char in text]
    assert texts(play([*one_by_one, event(finish="stop")])[0]) == text


@pytest.mark.parametrize(
    "token", [hexadecimal("4111111111111111", 32) + "c", hexadecimal("4111111111111111", 31), "ab4111111111111111"]
)
def test_what_only_resembles_an_id_never_goes_out_however_it_is_cut(token: str) -> None:
    text = f"see {token} now"
    for cut in range(len(text) + 1):
        for pieces in ((text[:cut], text[cut:]), (*text[:cut], text[cut:])):
            out, _ = play([*(event(content=piece) for piece in pieces), event(finish="stop")])
            assert "1111" not in texts(out) and reasons(out) == ["content_filter"], (cut, texts(out))


@given(st.data())
@settings(max_examples=300)
def test_a_card_cut_at_any_places_never_goes_out(data: st.DataObject) -> None:
    card = data.draw(st.sampled_from(CARDS))
    form = data.draw(st.sampled_from(["", " ", "-", "."])).join(data.draw(st.sampled_from(groupings(card))))
    before, after = (
        data.draw(st.sampled_from(["", "no. ", "12 ", "at 10:42 "])),
        data.draw(st.sampled_from(["", ".", " exp", " 12"])),
    )
    text = before + form + after
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=len(text) - 1)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    in_arguments = data.draw(st.booleans())
    events = [
        event(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) if in_arguments else event(content=piece)
        for piece in pieces
    ]
    out, _ = play([*events, event(finish="stop")])
    sent = "".join(filter(str.isdigit, texts(out)))
    assert card not in sent and reasons(out) == ["content_filter"]
    assert len(sent) <= sum(map(str.isdigit, before))


@given(st.lists(st.text(alphabet="ab 12,.", max_size=6), max_size=30))
@settings(max_examples=200)
def test_what_holds_no_card_goes_out_byte_for_byte(pieces: list[str]) -> None:
    if PAN[0].scan("".join(pieces), final=True).findings:
        return
    events = [*(event(content=piece) for piece in pieces), event(finish="stop")]
    out, _ = play(events)
    assert out == events


def test_nothing_is_delayed_while_no_digit_run_is_open() -> None:
    screen = StreamScreen(PAN, 1)
    for word in ["Hello", " there,", " it is", " 10", ":", "42", " o'clock"]:
        item = event(content=word)
        out = screen.feed(item, decode_chunk(data_of(item)))
        open_run = word[-1].isdigit()
        assert (item in out) != open_run, word


def test_a_long_row_of_numbers_is_not_held_for_ever() -> None:
    screen = StreamScreen(PAN, 1)
    held, worst = 0, 0
    for number in range(2000):
        item = event(content=f"{number % 10} ")
        held += 1 - len(screen.feed(item, decode_chunk(data_of(item))))
        worst = max(worst, held)
    assert worst <= 20


def test_uuids_and_timestamps_stream_through() -> None:
    iban = "IBAN DE89 3704 0044 0532 0130 00, "
    text = iban + "id 11111111-2222-4333-8444-501812345675 at 2026-11-22 07:34:35, ratio 0.4111111111111111."
    events = [*(event(content=char) for char in text), event(finish="stop")]
    out, _ = play(events)
    assert out == events


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 30])
def test_an_iban_that_holds_a_card_number_streams_through(step: int) -> None:
    account = "411111111111111100"
    iban = f"DE{98 - int(account + '131400') % 97:02d}{account}"
    text = "to " + " ".join(iban[at : at + 4] for at in range(0, len(iban), 4)) + " now"
    assert "4111 1111 1111 1111" in text
    events = [*(event(content=text[at : at + step]) for at in range(0, len(text), step)), event(finish="stop")]
    assert play(events)[0] == events
    wrong = text.replace("DE", "DE9", 1)
    out, _ = play([*(event(content=wrong[at : at + step]) for at in range(0, len(wrong), step)), event(finish="stop")])
    assert reasons(out) == ["content_filter"] and "1111" not in texts(out)


def test_only_the_offending_choice_is_ended() -> None:
    events = [
        event(0, content="fine "),
        event(1, content="4111 1111 "),
        event(0, content="still fine"),
        event(1, content="1111 1111 "),
        event(1, content="and more"),
        event(0, finish="stop"),
        event(1, finish="stop"),
    ]
    out, screen = play(events, choices=2)
    assert texts(out, 0) == "fine still fine" and reasons(out, 0) == ["stop"]
    assert texts(out, 1) == "" and reasons(out, 1) == ["content_filter"]
    assert len(screen.verdicts) == 1


def test_a_choice_in_a_shared_event_is_cut_out_of_it() -> None:
    both = {
        "choices": [{"index": 0, "delta": {"content": "ok"}}, {"index": 1, "delta": {"content": "4111111111111111 x"}}]
    }
    out, _ = play([b"data: " + json.dumps(both).encode() + b"\n\n", event(0, finish="stop")], choices=2)
    assert texts(out, 0) == "ok" and texts(out, 1) == "" and reasons(out, 1) == ["content_filter"]


def test_a_card_in_one_piece_of_a_tool_call_is_found_per_call() -> None:
    calls = [{"index": 0, "function": {"arguments": "4111"}}, {"index": 1, "function": {"arguments": "1111 1111 1111"}}]
    out, _ = play([event(tool_calls=calls), event(finish="tool_calls")])
    assert reasons(out) == ["tool_calls"]


def test_ids_that_end_in_digits_hold_nothing_up() -> None:
    first = event(tool_calls=[{"index": 0, "id": "call_12345678", "type": "function", "function": {"name": "f4"}}])
    screen = StreamScreen(PAN, 1)
    assert screen.feed(first, decode_chunk(data_of(first))) == [first]


def test_a_card_in_a_reasoning_field_is_found() -> None:
    out, _ = play([event(reasoning="the card 4111 1111"), event(reasoning=" 1111 1111."), event(finish="stop")])
    assert reasons(out) == ["content_filter"]


def test_a_stream_that_ends_without_finish_reason_is_still_read_to_the_end() -> None:
    out, _ = play([event(content="4111 1111 1111 1111")])
    assert texts(out) == "" and reasons(out) == ["content_filter"]


def test_tokens_that_run_ahead_of_the_text_are_read_too() -> None:
    """With a stop string the model server holds text back, but not the tokens in `logprobs`."""

    def ahead(text: str, *tokens: str) -> bytes:
        logprobs = {"content": [{"token": token, "logprob": -0.1} for token in tokens]}
        choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
        return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"

    pieces = ["4111", " 1111", " 1111", " 1111", ".", " So"]
    out, _ = play([ahead("", piece) for piece in pieces] + [ahead("4111 1111 1111 1111. So"), event(finish="stop")])
    assert b"1111" not in b"".join(out) and reasons(out) == ["content_filter"]
    fine = [
        ahead("", "It", " is"),
        ahead("It is", " 10"),
        ahead(" 10", ":42"),
        ahead(":42.", "."),
        event(finish="stop"),
    ]
    assert play(fine)[0] == fine
    old = {"index": 0, "text": "", "logprobs": {"tokens": ["4111 1111", " 1111 1111 "]}, "finish_reason": None}
    out, _ = play([b"data: " + json.dumps({"object": "text_completion", "choices": [old]}).encode() + b"\n\n"])
    assert b"1111" not in b"".join(out)


@pytest.mark.parametrize("first", ["reasoning_content", "reasoning"])
def test_a_card_that_reasoning_begins_and_content_ends_never_goes_out_whole(first: str) -> None:
    text = "it is 4111 1111 1111 1111, ok"
    for cut in range(7, 25):
        for size in (1, 3, 40):
            events = [event(**{first: text[at : min(cut, at + size)]}) for at in range(0, cut, size)]
            events += [event(content=text[at : at + size]) for at in range(cut, len(text), size)]
            out, _ = play([*events, event(finish="stop")])
            sent = b"".join(out)
            assert reasons(out) == ["content_filter"] and not any(digit in sent for digit in (b"4111", b"1111")), (
                cut,
                size,
            )


@pytest.mark.parametrize("field", ["reasoning_content", "content"])
def test_what_reasoning_left_open_does_not_hold_the_content_for_ever(field: str) -> None:
    then = "content" if field == "reasoning_content" else "reasoning_content"
    screen = StreamScreen(PAN, 1)
    feed = lambda item: screen.feed(item, decode_chunk(data_of(item)))  # noqa: E731
    asked = event(**{field: "so it is 42"})
    assert feed(asked) == []
    answer = event(**{then: "Hello"})
    assert feed(answer) == [asked, answer]
    for _ in range(400):
        item = event(**{then: " word"})
        assert feed(item) == [item]


def test_reasoning_in_turns_with_content_hides_no_card() -> None:
    for first, then in (("content", "reasoning"), ("reasoning", "content")):
        pieces = [(first, "4111 1111"), (then, " and so "), (first, " 1111 1111"), (then, " on")]
        out, _ = play([*(event(**{name: text}) for name, text in pieces), event(finish="stop")])
        assert reasons(out) == ["content_filter"] and b'1111 1111"' not in b"".join(out[1:])


@pytest.mark.parametrize("cut", range(1, 16))
@pytest.mark.parametrize("member", ["name", "id"])
def test_a_card_as_a_name_in_two_pieces_never_goes_out_whole(member: str, cut: int) -> None:
    card = "4111111111111111"

    def call(piece: str) -> bytes:
        value = {"function": {"name": piece}} if member == "name" else {"id": piece}
        return event(tool_calls=[{"index": 0, **value}])

    out, _ = play([call(card[:cut]), call(card[cut:]), event(finish="tool_calls")])
    assert reasons(out) == ["content_filter"] and card[cut:].encode() not in b"".join(out[1:])


def test_a_name_that_comes_with_every_piece_is_one_name() -> None:
    call = {"index": 0, "id": "call_41111111", "function": {"name": "pay_1111", "arguments": "{}"}}
    events = [*[event(tool_calls=[call])] * 5, event(finish="tool_calls")]
    assert play(events)[0] == events


def slowly(events: list[bytes]) -> tuple[list[bytes], int]:
    """What goes out of a screen that is fed `events` slowly, and how often other tasks had their turn."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> list[bytes]:
        screen, out = StreamScreen(PAN, 1), list[bytes]()
        counting = asyncio.create_task(count())
        for item in events:
            out += await screen.feed_slowly(item, decode_chunk(data_of(item)))
            if screen.ended:
                break
        counting.cancel()
        return out + screen.finish()

    return asyncio.run(run()), turns


@given(st.lists(st.text(alphabet="41 a,", max_size=40), max_size=6), st.integers(0, 3))
@settings(max_examples=60)
def test_a_long_event_is_read_as_a_short_one(pieces: list[str], times: int) -> None:
    text = "".join(pieces) + "x" * 4096 * times
    for tail in ("", "4111 1111 1111 1111"):
        events = [event(content=text + tail), event(content=" end"), event(finish="stop")]
        assert slowly(events)[0] == play(events)[0]


@pytest.mark.parametrize("where", ["content", "name"])
def test_others_have_their_turn_while_a_long_event_is_read(where: str) -> None:
    text = "4000 0001 " * 50_000
    long = event(content=text) if where == "content" else event(tool_calls=[{"index": 0, "function": {"name": text}}])
    _, turns = slowly([long, event(finish="stop")])
    assert turns >= len(text) // 17_000


def test_what_is_held_is_bounded_in_bytes_and_in_texts() -> None:
    with pytest.raises(UpstreamBroken, match="held back"):
        play([event(content="4"), *[event(role="x" * 500_000)] * 20])
    with pytest.raises(UpstreamBroken, match="beside each other"):
        play([event(**{f"text{number}": "a"}) for number in range(2000)])
    with pytest.raises(UpstreamBroken, match="beside each other"):
        play([event(tool_calls=[{"index": number, "id": f"a{number}"}]) for number in range(2000)])


@pytest.mark.parametrize("lead", ["data:  ", "data:\t", "data:\ndata: ", "data:"])
def test_an_event_that_is_written_in_another_way_is_blocked_as_well(lead: str) -> None:
    def odd(index: int, text: str) -> bytes:
        return lead.encode() + data_of(event(index=index, content=text)) + b"\n\n"

    pieces = [odd(0, "card 4111 1111 "), odd(1, "fine"), odd(0, "1111 1111 and"), odd(0, "5555555555554444 too")]
    out, _ = play([*pieces, event(index=1, finish="stop")], choices=2)
    sent = b"".join(out)
    assert b"1111" not in sent and b"5555" not in sent and reasons(out) == ["content_filter"]


def test_tool_arguments_do_not_interrupt_what_people_read_nor_belong_to_it() -> None:
    arguments = event(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])
    out, _ = play([event(reasoning="4111 1111 "), arguments, event(content="1111 1111 x"), event(finish="stop")])
    assert reasons(out) == ["content_filter"]
    arguments = event(tool_calls=[{"index": 0, "function": {"arguments": "11111111"}}])
    fine = [event(reasoning="so"), event(content="order 41111111"), arguments, event(finish="tool_calls")]
    assert play(fine)[0] == fine


def test_logprobs_that_stop_hold_nothing() -> None:
    def with_logprobs(text: str) -> bytes:
        raw = json.loads(data_of(event(reasoning=text)))
        raw["choices"][0]["logprobs"] = {"content": [{"token": text}]}
        return b"data: " + json.dumps(raw).encode() + b"\n\n"

    screen = StreamScreen(PAN, 1)
    feed = lambda item: screen.feed(item, decode_chunk(data_of(item)))  # noqa: E731
    asked, then = with_logprobs("it is 42"), event(tool_calls=[{"index": 0, "function": {"name": "f"}}])
    assert feed(asked) == [] and feed(then) == [asked, then]


def test_finished_choices_are_forgotten() -> None:
    events = [item for index in range(1500) for item in (event(index, content="word"), event(index, finish="stop"))]
    assert play(events, choices=1500)[0] == events


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {}, "text": "4111111111111111"},
        {"delta": {"4111111111111111": ""}},
        {"delta": {"x": {"4111111111111111": 1}}},
        {"delta": {"tool_calls": [{"index": [1], "function": {"arguments": "4111111111111111 "}}]}},
        {"delta": {}, "logprobs": {"refusal": [{"token": "4111111111111111"}, {"token": " "}]}},
    ],
)
def test_odd_members_of_a_chunk_are_read(choice: Any) -> None:
    item = b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"
    out, _ = play([item, event(finish="stop")])
    assert b"4111111111111111" not in b"".join(out)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("41 a", max_size=18),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "delta",
                    "text",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "id",
                    "logprobs",
                    "tokens",
                    "token",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)


def read_odd(first: bytes, *others: bytes) -> list[bytes]:
    """What goes out where `first` may be no chunk at all; nothing if it is not, or if the stream is broken."""
    screen, out = StreamScreen(PAN, 2), list[bytes]()
    try:
        chunk = decode_chunk(data_of(first))
    except UNREADABLE:
        return []
    with contextlib.suppress(UpstreamBroken):
        out += screen.feed(first, chunk)
        for item in others:
            out += screen.feed(item, decode_chunk(data_of(item)))
        out += screen.finish()
    return out


@given(st.lists(ODD, max_size=3), st.booleans())
@settings(max_examples=400)
def test_no_chunk_is_a_defect(choices: list[Any], with_delta: bool) -> None:
    made = [{"index": 0, "delta": each} if with_delta else each for each in choices]
    item = b"data: " + json.dumps({"choices": made}).encode() + b"\n\n"
    read_odd(item, event(content="x 4111 1111 1111 1111 y"))


@pytest.mark.parametrize("depth", range(940, 1010))
def test_deep_chunks_are_no_defect(depth: int) -> None:
    item = (
        b'data: {"choices":[{"index":0,"delta":{"content":"4111111111111111 ","x":'
        + b"[" * depth
        + b"]" * depth
        + b"}}]}\n\n"
    )
    assert b"4111111111111111" not in b"".join(read_odd(item))


@pytest.mark.parametrize(
    "piece",
    [{f"a{number}": "1" for number in range(2000)}, {"x": ["4111"] * 2000}, {"x": [f"{n:012d}" for n in range(600)]}],
)
def test_the_texts_of_one_event_are_bounded(piece: dict[str, Any]) -> None:
    with pytest.raises(UpstreamBroken):
        play([event(**piece)])
