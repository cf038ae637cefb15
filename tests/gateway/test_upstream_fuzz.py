"""Nothing that an upstream sends is a defect, a hang, a leak or an unreadable response: statuses × headers × bodies × events."""

import base64
import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import httpx2 as httpx
import pytest

from tests.stand import Fake, Gateway, wait_until

CASES = 150
CARD = "4111111111111111"
OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
DEEP = 100_000
_STATUSES: tuple[int, ...] = (
    200,
    200,
    201,
    204,
    205,
    206,
    226,
    299,
    300,
    304,
    399,
    400,
    401,
    404,
    407,
    420,
    422,
    426,
    429,
    451,
    499,
)
_STATUSES += (500, 501, 503, 511, 529, 599, 600, 666, 999, 100, 101, 102, 199)
_REASONS = (b"OK", b"", b"\xff\xfe", b"No \x7f way", b"a" * 3000, b" ", b"OK\t", b"200 200")
_TYPES = (
    b"application/json", b"application/json", b"text/event-stream", b"text/event-stream; charset=utf-16", b"text/html", b"",
    b"multipart/form-data; boundary=x", b"application/json; charset=\xff", b"TEXT/EVENT-STREAM", b"application/json\tx",
    b"text/event-stream;" + b"a" * 2000,
)  # fmt: skip
_PAUSES = (
    b"1", b"0", b"-1", b"1e999", b"NaN", b"inf", b"9" * 400, b"Fri, 31 Dec 9999 23:59:59 GMT", b"\xb2",
    b"Fri, 31 Dec 9999 23:59:59 -2359", b"Mon, 01 Jan 0001 00:00:00 +2359", b"Fri, 99 Foo 99999 99:99:99 GMT", b"1, 2",
    b"Fri, 31 Dec 2026 23:59:59 +999999999999", b"",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, -(10**30), 2**63, "", "x", "\u2028\x00", CARD, [], [[]], [None], [1], {}, {"a": {}},
    {"": []}, [{}], {"message": {"x": []}}, {"index": []}, "4111 1111", int(CARD),
)  # fmt: skip
_RAW = (
    b"NaN", b"Infinity", b"-0", b"1e999", b"1" * 5000, b'"\xff\xfe"', b'"\\ud800"', b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"[" * 950 + b"]" * 950, b'{"a":' * 900 + b"1" + b"}" * 900, b'"\\u0000"',
    b"'x'", b'{"a":1,"a":2}', b"[" * DEEP, b'"' + b"1 " * 3000 + b'"',
)  # fmt: skip
_MARK = "<raw>"

Chance = random.Random


def whole(path: str) -> dict[str, Any]:
    """A good response, to be spoilt."""
    if path == ANTHROPIC:
        block = {"type": "text", "text": "fine"}
        usage = {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 0}
        return {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [block], "usage": usage,
                "stop_reason": "end_turn", "stop_sequence": None}  # fmt: skip
    token = {
        "token": "fine",
        "logprob": -0.1,
        "bytes": [102],
        "top_logprobs": [{"token": "f", "logprob": -1, "bytes": [1]}],
    }
    call = {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "fine", "reasoning": "r", "tool_calls": [call]}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": [token]},
        "finish_reason": "stop",
        "stop_reason": None,
    }
    usage: dict[str, Any] = {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def good_events(path: str) -> list[tuple[str, dict[str, Any]]]:
    """A good stream but for its end: names and data."""
    if path == ANTHROPIC:
        start = {**whole(path), "content": [], "stop_reason": None}
        text = {"type": "text_delta", "text": "fine"}
        return [
            (kind, {"type": kind, **data})
            for kind, data in (
                ("message_start", {"message": start}),
                ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
                ("content_block_delta", {"index": 0, "delta": text}),
                ("ping", {}),
                ("content_block_stop", {"index": 0}),
                (
                    "message_delta",
                    {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 1}},
                ),
            )
        ]
    choice = {**whole(path)["choices"][0], "finish_reason": None}
    delta, last = choice.pop("message"), {"index": 0, "delta": {}, "finish_reason": "stop"}
    rest = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    usage = {**rest, "choices": [], "usage": whole(path)["usage"]}
    plain = {**rest, "choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": None}]}
    return [("", plain), ("", plain), ("", {**rest, "choices": [choice | {"delta": delta}]}), ("", {**rest, "choices": [last]}),
            ("", usage)]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in decoded JSON."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def spoilt(chance: Chance, value: dict[str, Any]) -> bytes:
    """`value` as JSON, with up to three members changed, added or missing, or cut in the middle."""
    for _ in range(chance.randrange(4)):
        found = list(places(value))
        if not found:
            break
        container, key = chance.choice(found)
        how = chance.randrange(4)
        if how == 0 and isinstance(container, dict):
            container[chance.choice(["x", "error", "usage", "index", CARD])] = deepcopy(chance.choice(_VALUES))
        elif how == 1 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = deepcopy(chance.choice((*_VALUES, *[_MARK] * 8)))
    raw = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    while _MARK.encode() in raw:
        raw = raw.replace(b'"%s"' % _MARK.encode(), chance.choice(_RAW), 1)
    return raw[: chance.randrange(len(raw) + 1)] if chance.random() < 0.1 else raw


def body_of(chance: Chance, path: str) -> bytes:
    """A whole body: a spoilt response, a spoilt error, or nonsense."""
    error = {"error": {"message": f"no {CARD}", "type": "BadRequestError", "param": None, "code": 400}}
    kind = chance.randrange(5)
    if kind < 2:
        return spoilt(chance, whole(path))
    if kind == 2:
        return spoilt(chance, error)
    if kind == 3:
        return spoilt(
            chance,
            deepcopy(chance.choice([{"detail": chance.choice(_VALUES)}, {"error": chance.choice(_VALUES)}, {"x": 1}])),
        )
    return chance.choice((*_RAW, b"", b"\xef\xbb\xbf{}", b"{}", b"null", b"Internal Server Error"))


def stream_of(chance: Chance, path: str) -> bytes:
    """Events, of which some are spoilt, doubled, missing or no events at all."""
    out = b"\xef\xbb\xbf" if chance.random() < 0.1 else b""
    end = chance.choice((b"\n", b"\n", b"\r\n", b"\r"))
    for name, value in good_events(path):
        for _ in range(chance.choice((1, 1, 1, 1, 0, 2))):
            if chance.random() < 0.15:
                out += (
                    chance.choice((b": %s" % CARD.encode(), b"id: 4", b"nonsense", b"data", b"retry: NaN", b"\xff"))
                    + end
                )
            data = spoilt(chance, value) if chance.random() < 0.4 else json.dumps(value).encode()
            out += (b"event: %s%s" % (name.encode(), end) if name else b"") + b"data: " + data + end + end
    if chance.random() < 0.1:
        out += b'data: {"error":%s}' % json.dumps(chance.choice(_VALUES)).encode() + end + end
    if chance.random() < 0.8:
        out += (
            b'event: message_stop%sdata: {"type":"message_stop"}' % end if path == ANTHROPIC else b"data: [DONE]"
        ) + end * 2
    return out


def response_of(chance: Chance, path: str, *, stream: bool) -> bytes:
    """One response, head and body, as it goes over the wire; the connection is cut after it."""
    good = chance.random() < 0.6
    status = 200 if good else chance.choice((*_STATUSES, chance.randrange(100, 1000)))
    streamed = stream and chance.random() < 0.8
    body = stream_of(chance, path) if streamed else body_of(chance, path)
    kind = b"text/event-stream" if streamed else b"application/json"
    if not good and chance.random() < 0.4:
        kind = chance.choice(_TYPES)
    lines = [b"content-type: " + kind]
    if not good and chance.random() < 0.5:
        lines.append(b"retry-after: " + chance.choice(_PAUSES))
    framing = chance.randrange(12)
    if framing < 5:
        lines.append(b"content-length: %d" % len(body))
    elif framing < 8:
        lines.append(b"transfer-encoding: chunked")
        half = len(body) // 2
        body = (
            b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece)
            + b"0\r\n\r\n"
        )
    elif framing == 8:
        lines += [b"content-length: %d" % len(body), b"transfer-encoding: chunked"]
    elif framing == 9:
        lines += [b"content-length: %d" % len(body), b"content-length: %d" % chance.randrange(99)]
    elif framing == 10:
        lines += [
            chance.choice(
                (b"content-length: -5", b"content-length: 0x10", b"content-encoding: gzip", b": x", b"a\x00b: c")
            )
        ]
    reason = b"OK" if good else chance.choice(_REASONS)
    return b"HTTP/1.1 %d %s\r\n%s\r\n\r\n" % (status, reason, b"\r\n".join(lines)) + body


def check_error(path: str, found: Any) -> None:
    """An error as this path's clients expect one."""
    assert isinstance(found, dict) and isinstance(found["error"], dict), found
    assert isinstance(found["error"]["message"], str), found
    assert isinstance(found["error"]["type"], str), found


def check_response(path: str, answer: httpx.Response) -> None:
    """What every client may rely on, whatever the upstream sent."""
    text = answer.content.decode("utf-8", "replace")
    assert 200 <= answer.status_code < 600
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        last = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n\n")[-1].split("\n")
        data = last[-1].removeprefix("data:").strip()
        if data != "[DONE]" and '"message_stop"' not in data:
            check_error(path, json.loads(data))
        return
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    try:
        found = json.loads(text, parse_int=float)
    except RecursionError:
        assert answer.status_code < 300
        return
    assert isinstance(found, dict)
    if answer.status_code >= 300:
        check_error(path, found)


@pytest.fixture(scope="module")
def own_fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """An upstream to which nothing else has connections."""
    made = Fake(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.process.stop()


@pytest.fixture(scope="module", params=["plain", "guarded"])
def fuzzed(request: Any, own_fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with short timeouts that tries once; with and without output guardrails."""
    relay = {"first_byte_timeout_s": 2, "first_event_timeout_s": 2, "idle_timeout_s": 2}
    policy: dict[str, Any] = {"name": "default"}
    if request.param == "guarded":
        policy["guardrails"] = [{"type": "pan"}]
    settings = {"relay": relay, "routing": {"retries": {"max_attempts": 1}, "health": {"rest_at_most_s": 0.1}}}
    made = Gateway(tmp_path_factory.mktemp(request.param), [own_fake.url], policies=[policy], settings=settings)
    yield made
    made.process.stop()


def ask(gateway: Gateway, fake: Fake, path: str, raw: bytes, *, stream: bool) -> httpx.Response:
    """One request that the upstream answers by `raw`, then closes."""
    script = fake.script("fuzz", {"send_b64": base64.b64encode(raw).decode()}, {"cut": "fin"})
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return gateway.post({**body, "fake_script": script, "stream_options": {"include_usage": True}}, path=path)


def check_nothing_left(gateway: Gateway, fake: Fake) -> None:
    assert gateway.left() == [] and gateway.log_lines("defect") == []
    wait_until(lambda: fake.truth()["open_requests"] == 0, 5, "every upstream request to end")
    wait_until(lambda: fake.truth()["open_connections"] <= 4, 5, "no connection to leak")
    assert gateway.chat(max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_no_upstream_byte_is_a_defect(fuzzed: Gateway, own_fake: Fake, path: str, stream: bool) -> None:
    for seed in range(CASES):
        raw = response_of(random.Random(f"{path}{stream}{seed}"), path, stream=stream)
        try:
            answer = ask(fuzzed, own_fake, path, raw, stream=stream)
            check_response(path, answer)
        except (AssertionError, httpx.HTTPError, ValueError, KeyError) as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__} {error}: {raw[:600]!r}") from error
    check_nothing_left(fuzzed, own_fake)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_every_status_gets_a_response(fuzzed: Gateway, own_fake: Fake, stream: bool) -> None:
    """A status that HTTP does not define is read as its class says (RFC 9110 section 15)."""
    good = json.dumps(whole(OPENAI)).encode()
    bad = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'
    want: dict[int, Callable[[int], bool]] = {
        **dict.fromkeys((200, 201, 203), lambda status: status in (200, 201, 203)),
        **dict.fromkeys((299, 300, 399, 600, 700, 999), lambda status: status == 502),
        **dict.fromkeys((420, 430, 498, 499), lambda status: status == 400),
        **dict.fromkeys((404, 418, 451), lambda status: status in (404, 418, 451)),
        **dict.fromkeys((401, 403), lambda status: status == 502),
        **dict.fromkeys((520, 529, 599), lambda status: status == 503),
    }
    for status, is_right in want.items():
        body = bad if status >= 400 else good
        raw = (
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
            + body
        )
        answer = ask(fuzzed, own_fake, OPENAI, raw, stream=stream)
        assert is_right(answer.status_code), (status, answer.status_code)
        check_response(OPENAI, answer)
    check_nothing_left(fuzzed, own_fake)


@pytest.mark.parametrize("pause", ["Fri, 31 Dec 9999 23:59:59 -2359", "9" * 400, "NaN", "-1", "1e999"])
def test_an_absurd_retry_after_is_bounded(fuzzed: Gateway, own_fake: Fake, pause: str) -> None:
    for status, refused in ((429, 429), (503, 503), (404, 404)):
        raw = f"HTTP/1.1 {status} X\r\nretry-after: {pause}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
        answer = ask(fuzzed, own_fake, OPENAI, raw, stream=False)
        assert answer.status_code == refused, answer.text
        told = answer.headers.get("retry-after")
        assert told is None or 1 <= int(told) <= 86_400
    check_nothing_left(fuzzed, own_fake)
