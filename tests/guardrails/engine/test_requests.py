"""Screening of requests: refuse, mask, and media that the model server would fetch."""

import json

import pytest

from guardrails.engine.media import check_media
from guardrails.engine.policy import Policy, build_policy
from guardrails.engine.requests import Refused, check_fields, check_preset, screen_request, suspects
from tidegate.config import resources
from tidegate.config.settings import PluginSpec
from tidegate.errors import InvalidRequest
from tidegate.wire.openai import decode_request
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


def refuses(body: dict[str, object] | bytes, **pan: str) -> bool:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        return screen_request(policy(**pan), raw) != (raw, [])
    except Refused:
        return True


def said(*parts: object, **message: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": list(parts), **message}]}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


INLINE = "data:image/png;base64,AAAA4111111111111111BBBB"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": INLINE}},
        {"type": "image_url", "image_url": INLINE},
        {"type": "input_image", "image_url": INLINE},
        {"type": "audio_url", "audio_url": {"url": INLINE.upper().replace("BASE64", "base64")}},
        {"type": "video_url", "video_url": {"url": INLINE}},
        {"type": "file", "file": {"file_data": INLINE}},
    ],
)
def test_the_bytes_of_inline_media_are_not_searched(part: dict[str, object]) -> None:
    assert not refuses(said(text("see"), part))
    assert not refuses({"input": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize(
    "body",
    [
        said(text(INLINE)),
        said(text("data:;base64,4111111111111111")),
        {"messages": [{"role": "user", "content": INLINE}]},
        {"prompt": INLINE},
        {"tools": [{"image_url": {"url": INLINE}}]},
        said({"type": "tool_use", "input": {"image_url": {"url": INLINE}}}),
        said({"type": "image_url", "image_url": {"url": INLINE, "detail": INLINE}}),
        said({"type": "image_url", "image_url": {"url": "data:image/4111111111111111;base64,AAAA"}}),
        said({"type": "image_url", "image_url": {"url": "data:image/png;n=4111111111111111;base64,AAAA"}}),
        said({"type": "image_url", "image_url": {"url": INLINE + " 4111111111111111"}}),
        said({"type": "image_url", "image_url": {"url": f"data:,{CARD}"}}),
    ],
)
def test_text_that_looks_like_media_is_searched(body: dict[str, object]) -> None:
    assert refuses(body) and refuses(body, on_input="mask")


@pytest.mark.parametrize(
    "body",
    [
        said(text("4111 1111 "), text("1111 1111")),
        said(text("pay 4111 1111"), text(""), text(" 1111 1111 now")),
        said("4111 1111 ", "1111 1111"),
        {"system": [text("4111 1111 1"), text("111 1111")]},
        {"input": [{"content": [{"type": "input_text", "text": part} for part in ("4111-1111-", "1111-1111")]}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": r'{"n": "\u0034111111111111111"}'}}]}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": json.dumps({"a": r'["\u0034111111111111111"]'})}}]}]},
        b'{"metadata":{"n":4.111111111111111e15}}',
        b'{"metadata":{"n":41111111111111110e-1}}',
        b'{"metadata":{"n":-4111111111111111}}',
    ],
)
def test_digits_that_the_model_reads_as_one_number_are_one(body: dict[str, object] | bytes) -> None:
    assert refuses(body)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    masked, verdicts = screen_request(policy(on_input="mask"), raw)
    assert sum(verdict.findings for verdict in verdicts) == 1 and not refuses(masked)


@pytest.mark.parametrize(
    "body",
    [
        said(text("4111 1111 "), {"type": "image_url", "image_url": {"url": "data:,x"}}, text("1111 1111")),
        {"messages": [{"content": "4111 1111 "}, {"content": "1111 1111"}]},
        {"input": ["4111", "1111", "1111", "1111"]},
        {"vectors": [4111, 1111, 1111, 1111, 0.4111111111111111]},
        {"tool_choice": [4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]},
        {"logit_bias": {"4111": 1111, "1112": 1111}, "temperature": 0.7, "seed": 1795333881066, "n": 1e3},
        said(text("in 2024"), text("2025 and 4111"), text("1111 more")),
    ],
)
def test_numbers_that_only_stand_near_each_other_are_not_one(body: dict[str, object]) -> None:
    assert not refuses(body)


def test_masking_across_parts_changes_only_the_digits() -> None:
    body = said(text("a 4111 11"), text("11 "), text("1111 1111 b"), text("c"))
    masked, verdicts = screen_request(policy(on_input="mask"), json.dumps(body).encode())
    parts = [part["text"] for part in json.loads(masked)["messages"][0]["content"]]
    assert parts == ["a **** **** **** 1111", "", " b", "c"] and verdicts[0].findings == 1


def test_masking_inside_arguments_leaves_valid_json() -> None:
    arguments = r'{"n": "\u0034111 1111 1111 1111", "m": 5}'
    body = {"messages": [{"tool_calls": [{"function": {"arguments": arguments}}]}]}
    masked, _ = screen_request(policy(on_input="mask"), json.dumps(body).encode())
    inner = json.loads(masked)["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(inner) == {"n": "**** **** **** 1111", "m": 5}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", b"[-0,52,49]"),
        ("prompt", b"[[-0]]"),
        ("prompt", b"[[],[52,49]]"),
        ("prompt", b" [ 52 ] "),
        ("prompt", b'["a",52]'),
        ("prompt", b'{"prompt_token_ids":[52]}'),
        ("input", b"[52]"),
        ("input", b"[[52]]"),
        ("input", b"52"),
        ("prompt_embeds", b'"AAAA"'),
        ("prompt_embeds", b'["AAAA"]'),
    ],
)
def test_prompts_that_are_no_text_are_refused_where_they_would_have_to_be_read(field: str, value: bytes) -> None:
    request = decode_request(b'{"model":"m","%s":%s}' % (field.encode(), value))
    with pytest.raises(InvalidRequest, match="Send text") as caught:
        check_fields(policy(), request)
    assert caught.value.param == field
    check_fields(build_policy(resources.Policy(name="p")), request)


@pytest.mark.parametrize("value", [b'"a"', b'["a","b"]', b"[]", b"null"])
def test_texts_are_prompts(value: bytes) -> None:
    for field in (b"prompt", b"input"):
        check_fields(policy(), decode_request(b'{"model":"m","%s":%s}' % (field, value)))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:,x"}, "uuid": "a"},
        {"type": "image_url", "image_url": None, "uuid": "a"},
        {"type": "image_url", "image_url": {"url": "data:,x", "uuid": "a"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "uuid": "a"}},
    ],
)
def test_the_cache_key_of_media_is_a_guarded_field(part: dict[str, object]) -> None:
    raw = json.dumps(said(part)).encode()
    for form in (raw, raw.replace(b'"uuid"', b'"u\\u0075id"')):
        with pytest.raises(InvalidRequest) as caught:
            check_media(policy(), form, Skim(form))
        assert caught.value.error_code == "field_not_allowed"
    opened = build_policy(resources.Policy(name="p", allow_request_fields=["uuid"]))
    check_media(opened, raw, Skim(raw))


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"function": {"parameters": {"properties": {"uuid": {"format": "uuid"}}}}}]},
        {"metadata": {"uuid": "a"}},
        said({"type": "tool_use", "id": "1", "input": {"uuid": "a"}}),
        said({"type": "image_url", "image_url": {"url": "data:,x"}, "uuid": None}),
        {"messages": [{"role": "user", "content": "uuid", "uuid": "a"}]},
    ],
)
def test_other_fields_of_that_name_are_the_clients_own(body: dict[str, object]) -> None:
    raw = json.dumps(body).encode()
    check_media(policy(), raw, Skim(raw))


@pytest.mark.parametrize("field", ["echo", "prompt_logprobs", "return_prompt_text", "return_token_ids"])
def test_a_presets_prompt_is_not_shown(field: str) -> None:
    values = (b"true",) if field == "return_token_ids" else (b"true", b"1", b"0")
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            check_preset(decode_request(b'{"model":"m","%s":%s}' % (field.encode(), value)))
        assert caught.value.param == field
    for value in (b"null", b"false"):
        check_preset(decode_request(b'{"model":"m","%s":%s}' % (field.encode(), value)))


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


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "4111 1111 "}, "1111 1111"],
        [IMAGE, "4111 1111 ", "1111 1111"],
        ["4111 1111 ", {"type": "text", "text": "1111 1111"}],
        [{"type": "text", "text": "4111 1111 "}, {"type": "refusal", "refusal": "1111 1111"}],
        [{"type": "thinking", "thinking": "4111 1111 "}, {"type": "text", "text": "1111 1111"}],
        [{"type": "refusal", "refusal": "4111 1111 "}, {"type": "thinking", "thinking": "1111 1111"}],
    ],
)
@pytest.mark.parametrize("padding", [0, 140_000])
def test_a_card_that_lies_across_parts_of_any_kind_is_found(content: list[object], padding: int) -> None:
    fields = {"messages": [{"role": "user", "content": content}], "x": "a" * padding}
    for separators in ((", ", ": "), (",", ":"), (" , ", " :  ")):
        raw = json.dumps(fields, separators=separators).encode()
        with pytest.raises(Refused):
            screen_request(policy(), raw)
        body, verdicts = screen_request(policy(on_input="mask"), raw)
        assert b'1111 "' not in body and sum(verdict.findings for verdict in verdicts) == 1
        assert "****" in json.dumps(json.loads(body)["messages"][0]["content"])


def test_lists_of_names_beside_parts_are_no_parts() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"required": ["a", "b"], "type": "object"}}}
    parts = [{"type": "text", "text": "hi 41"}, IMAGE]
    raw = json.dumps(
        {"messages": [{"role": "user", "content": parts}], "tools": [tool, tool], "stop": ["a", "b"]}
    ).encode()
    assert suspects(policy(), raw) == []
