"""What a hostile or broken client sends: refused in clear words, and no other request notices."""

import json
import socket
import threading
from typing import Any

import pytest

from tests.stand import Fake, Gateway, wait_until
from tidegate.wire.openai import ALWAYS_LOOKED_AT, RARE_FIELDS

BODY = b'{"model":"m","messages":[]}'
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"


def exchange(gateway: Gateway, raw: bytes) -> bytes:
    """What comes back until the connection is closed, or for half a second."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=0.5) as sender:
        received = b""
        try:
            sender.sendall(raw)
            while data := sender.recv(65536):
                received += data
        except TimeoutError:
            return received
        except ConnectionError:
            pass  # closed while there was more to send
        return received + b"<closed>"


def head(gateway: Gateway, version: bytes = b"HTTP/1.1", host: bytes = b"host: x\r\n") -> bytes:
    """The beginning of a good request."""
    key = gateway.key.encode()
    return b"POST /v1/chat/completions %s\r\n%sauthorization: Bearer %s\r\ncontent-type: application/json\r\n" % (
        version,
        host,
        key,
    )


SMUGGLED = {
    "length and chunked": LENGTH + CHUNKED + b"\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
    "chunked and length": CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "two lengths": LENGTH + b"content-length: 5\r\n\r\n" + BODY,
    "the same length twice": LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": b"content-length: 27, 27\r\n\r\n" + BODY,
    "a signed length": b"content-length: +27\r\n\r\n" + BODY,
    "a negative length": b"content-length: -1\r\n\r\n" + BODY,
    "a length in hex": b"content-length: 0x1b\r\n\r\n" + BODY,
    "an endless length": b"content-length: 99999999999999999999999\r\n\r\n" + BODY,
    "another coding": b"transfer-encoding: xchunked\r\n\r\n" + CHUNKS,
    "chunked is not the last coding": b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "two codings": b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "two coding lines": b"transfer-encoding: identity\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "a space before the colon": b"transfer-encoding : chunked\r\n\r\n" + CHUNKS,
    "a folded header": LENGTH + b"x-a: b\r\n c\r\n\r\n" + BODY,
    "a folded coding": b"transfer-encoding:\r\n chunked\r\n\r\n" + CHUNKS,
    "a bare line feed": LENGTH + b"x-a: b\nx-c: d\r\n\r\n" + BODY,
    "a bare carriage return": LENGTH + b"x-a: b\rx-c: d\r\n\r\n" + BODY,
    "a zero byte": LENGTH + b"x-a: b\0c\r\n\r\n" + BODY,
    "a chunk size in another notation": CHUNKED + b"\r\n0x1b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"\r\n1b\n" + BODY + b"\n0\n\n",
    "a chunk size that overflows": CHUNKED + b"\r\nfffffffffffffffff\r\n" + BODY + b"\r\n0\r\n\r\n",
    "two hosts": b"host: y\r\n" + LENGTH + b"\r\n" + BODY,
}


@pytest.mark.parametrize("rest", SMUGGLED.values(), ids=SMUGGLED)
def test_what_two_servers_may_read_in_two_ways_is_refused(gateway: Gateway, fake: Fake, rest: bytes) -> None:
    fake.forget()
    answer = exchange(gateway, head(gateway) + rest)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") and answer.endswith(b"<closed>")
    assert answer.count(b"HTTP/1.1 ") == 1, "and nothing behind it is answered"
    assert (
        json.loads(answer.partition(b"\r\n\r\n")[2].removesuffix(b"<closed>"))["error"]["type"]
        == "invalid_request_error"
    )
    assert fake.truth()["requests"] == 0


def test_an_old_version_knows_no_chunks_and_a_new_one_needs_a_host(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    assert exchange(gateway, head(gateway, b"HTTP/1.0") + CHUNKED + b"\r\n" + CHUNKS).startswith(b"HTTP/1.1 400")
    assert exchange(gateway, head(gateway, host=b"") + LENGTH + b"\r\n" + BODY).startswith(b"HTTP/1.1 400")
    assert exchange(gateway, head(gateway, b"HTTP/9.9") + LENGTH + b"\r\n" + BODY).startswith(b"HTTP/1.1 400")
    assert fake.truth()["requests"] == 0


def test_a_trailer_is_no_header(gateway: Gateway) -> None:
    chunks = CHUNKS.removesuffix(b"\r\n") + b"authorization: Bearer nobody\r\nx-request-id: trailer\r\n\r\n"
    answer = exchange(gateway, head(gateway) + CHUNKED + b"\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200") and b"trailer" not in answer


@pytest.mark.parametrize(
    "rest",
    [
        LENGTH + b"x-big: " + b"a" * 70_000 + b"\r\n\r\n" + BODY,
        LENGTH + b"".join(b"x-%d: a\r\n" % number for number in range(200)) + b"\r\n" + BODY,
        b"x-endless: " + b"a" * 3_000_000,
        CHUNKED + b"\r\n0\r\nx-trailer: " + b"a" * 3_000_000,
        CHUNKED + b"\r\n1;" + b"a" * 3_000_000,
    ],
    ids=["a large field", "many fields", "an endless head", "an endless trailer", "an endless chunk extension"],
)
def test_heads_and_what_is_no_body_are_bounded(gateway: Gateway, fake: Fake, rest: bytes) -> None:
    fake.forget()
    answer = exchange(gateway, head(gateway) + rest)
    assert answer.endswith(b"<closed>") and answer.startswith((b"HTTP/1.1 431 ", b"<closed>"))
    assert gateway.chat(max_tokens=1).status_code == 200
    assert fake.truth()["requests"] == 1


def test_a_head_that_is_large_is_told_so(gateway: Gateway) -> None:
    answer = exchange(
        gateway, head(gateway) + LENGTH + b"".join(b"x-%d: a\r\n" % n for n in range(200)) + b"\r\n" + BODY
    )
    assert answer.startswith(b"HTTP/1.1 431 ") and b"request_head_too_large" in answer


NONSENSE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not valid JSON"),
    "half an object": (b'{"model":"m"', "not valid JSON"),
    "two objects": (BODY + BODY, "not valid JSON"),
    "a list": (b"[]", "not a valid request"),
    "a byte order mark": (b"\xef\xbb\xbf" + BODY, "not valid JSON"),
    "not a number": (b'{"model":"m","temperature":NaN}', "not valid JSON"),
    "infinity": (b'{"model":"m","temperature":Infinity}', "not valid JSON"),
    "bad UTF-8 in a field": (b'{"model":"m","user":"\xff\xfe"}', "not valid UTF-8"),
    "bad UTF-8 in a name": (b'{"model":"m","\xff":1}', "not valid UTF-8"),
    "UTF-8 cut at the end of a window": (b'{"model":"m","x":"' + b"a" * 65_517 + b"\xc3", "not valid UTF-8"),
    "a lone surrogate": (b'{"model":"m","x":"\\ud800"}', "not valid JSON"),
    "two models": (b'{"model":"m","model":"n"}', "more than one field `model`"),
    "two models, one in disguise": (b'{"model":"m","\\u006dodel":"n"}', "more than one field `model`"),
    "no model": (b'{"messages":[]}', "model"),
    "a model that is a number": (b'{"model":1}', "not a valid request"),
    "a choice too many": (b'{"model":"m","n":1e999}', "not a valid request"),
    "a number that no machine holds": (b'{"model":"m","top_k":' + b"9" * 400 + b"}", "`top_k` is too large"),
    "a negative one": (b'{"model":"m","seed":-' + b"9" * 20 + b"}", "`seed` is too large"),
    "too deep": (b'{"model":"m","x":' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
    "far too deep": (b'{"model":"m","x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}", "nested too deeply"),
}


@pytest.mark.parametrize(("raw", "told"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_told_so_and_goes_nowhere(gateway: Gateway, fake: Fake, raw: bytes, told: str) -> None:
    fake.forget()
    answer = gateway.post(raw)
    assert answer.status_code == 400 and told in answer.json()["error"]["message"], answer.text
    assert answer.headers["x-should-retry"] == "false" and fake.truth()["requests"] == 0


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","tools":[{"function":{"parameters":{"properties":{"model":{"type":"string"}}}}}]}',
        b'{"model":"m","user":"model","x":["model"],"y":"\\"model\\":"}',
        b'{"model":"m","x":"\\u006d\\u006f"}',
        b'{"model":"m","x":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"model":"m","x":[' + b",".join([b'{"a":["[[[[{{"]}'] * 500) + b"]}",
        '{"model":"m","x":"日本語 é 🙂"}'.encode() + b" " * 70_000,
        b'{"model":"m","x":"' + b"a" * 65_517 + 'é"}'.encode(),
        b'{"model":"m","max_tokens":5,"x":' + b"9" * 400 + b"}",
        b'{"model":"m","max_tokens":5,"seed":9223372036854775807,"top_k":-1,"min_tokens":null}',
    ],
)
def test_what_only_looks_like_nonsense_passes(gateway: Gateway, fake: Fake, raw: bytes) -> None:
    fake.forget()
    assert gateway.post(raw).status_code == 200
    assert fake.seen()[0]["body"] == raw


VALUES = {
    "model": b'"m"',
    "stream": b"false",
    "stream_options": b"null",
    "messages": b"[]",
    "prompt": b'"a"',
    "input": b'"a"',
}
ACTED_ON = (*ALWAYS_LOOKED_AT, *RARE_FIELDS)


def disguised(name: str) -> bytes:
    """The name with an escape in place of its last character."""
    return name[:-1].encode() + b"\\u%04X" % ord(name[-1])


@pytest.mark.parametrize("padding", [0, 600_000], ids=["small", "large"])
@pytest.mark.parametrize("name", ACTED_ON)
def test_a_field_that_is_acted_on_occurs_once_however_it_is_spelled(
    gateway: Gateway, fake: Fake, name: str, padding: int
) -> None:
    fake.forget()
    value = VALUES.get(name, b"null")
    rest = b"" if name == "model" else b'"model":"m",'
    for twin in (name.encode(), disguised(name)):
        raw = b'{%s"%s":%s,"x":"%s","%s":%s}' % (rest, name.encode(), value, b"a" * padding, twin, value)
        answer = gateway.post(raw)
        assert answer.status_code == 400 and f"more than one field `{name}`" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == name
    assert fake.truth()["requests"] == 0


@pytest.mark.parametrize("padding", [0, 600_000], ids=["small", "large"])
@pytest.mark.parametrize("value", [b"null", b"{}", b'{"include_usage":false}'])
@pytest.mark.parametrize("name", [b"stream_options", b"stream\\u005foptions"])
def test_usage_is_asked_for_whatever_a_client_says_of_it(
    gateway: Gateway, fake: Fake, name: bytes, value: bytes, padding: int
) -> None:
    fake.forget()
    body = b'{"%s":%s,"model":"m","max_tokens":3,"stream":true,"x":"%s"}'
    answer = gateway.post(body % (name, value, b"a" * padding))
    assert answer.status_code == 200 and "[DONE]" in answer.text
    sent = fake.seen()[0]["body"]
    assert json.loads(sent)["stream_options"] == {"include_usage": True} and sent.count(b'options":') == 1
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["output_tokens"], row["usage_source"]) == (3, "reported")


HEAVY = {
    "groups of brackets": b",".join([b"[" * 110 + b"]" * 110] * 5_000),
    "objects with a url": b",".join([b'{"url":1}'] * 100_000),
    "a fetched url behind many": b",".join([b'{"url":1}'] * 100_000) + b',{"image_url":"http://x"}',
    "names": b",".join([b'{"model":1}'] * 100_000),
    "numbers": b",".join([b"1"] * 500_000),
    "empty texts": b",".join([b'""'] * 600_000),
    "an escaped text": b'"' + b"\\u0061" * 150_000 + b'"',
    "escaped quotes": b'"' + b'\\"' * 400_000 + b'"',
}


@pytest.mark.parametrize("inside", HEAVY.values(), ids=HEAVY)
def test_a_body_that_is_slow_to_read_holds_nobody_up(gateway: Gateway, fake: Fake, inside: bytes) -> None:
    raw, answers = b'{"model":"m","max_tokens":1,"x":[' + inside + b"]}", list[Any]()
    wait_until(lambda: gateway.chat(max_tokens=1).status_code == 200)
    sender = threading.Thread(target=lambda: answers.append(gateway.post(raw)))
    sender.start()
    while sender.is_alive():
        assert gateway.chat(max_tokens=1).status_code == 200
    fetched = b"http:" in inside
    assert answers[0].status_code == (400 if fetched else 200)
    assert not fetched or answers[0].json()["error"]["code"] == "media_url_not_allowed"


@pytest.mark.parametrize("padding", [0, 600_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", b'"prompt":[-0,52,49]', "prompt"),
        ("/v1/completions", b'"prompt":[[],[52,49]]', "prompt"),
        ("/v1/completions", b'"prompt_embeds":"AAAA"', "prompt_embeds"),
        ("/v1/embeddings", b'"input":[[-0]]', "input"),
        ("/v1/chat/completions", b'"cache_salt":"a"', "cache_salt"),
        ("/v1/chat/completions", b'"messages":[{"content":[{"type":"image_url","uuid":"a"}]}]', "messages"),
        ("/v1/chat/completions", b'"return_token_ids":true', "return_token_ids"),
    ],
)
def test_what_gets_past_a_policy_is_refused_in_bodies_of_any_size(
    gateway: Gateway, fake: Fake, path: str, fields: bytes, param: str, padding: int
) -> None:
    fake.forget()
    answer = gateway.post(b'{"model":"m","x":"%s",%s}' % (b"a" * padding, fields), path=path)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert row["outcome"] == "refused" and fake.truth()["requests"] == 0


def test_whether_a_trace_is_recorded_is_not_the_clients_to_say(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    for version, more in (("00", ""), ("01", "-x"), ("ff", ""), ("zz", "")):
        sent = f"{version}-{'a' * 32}-{'b' * 16}-ff{more}"
        assert gateway.chat(headers={"traceparent": sent}, max_tokens=1).status_code == 200
    seen = [dict(row["headers"])["traceparent"] for row in fake.seen()]
    assert seen[:2] == [f"00-{'a' * 32}-{'b' * 16}-00"] * 2
    assert all(value.startswith("00-") and value.endswith("-00") and "a" * 32 not in value for value in seen[2:])


def test_nobody_notices_the_nonsense_of_others(gateway: Gateway, fake: Fake) -> None:
    with gateway.open_stream(max_tokens=30, fake_pace_ms=10) as answer:
        lines = answer.iter_lines()
        next(lines)
        for rest in list(SMUGGLED.values())[:6]:
            exchange(gateway, head(gateway) + rest)
        for raw, _ in NONSENSE.values():
            gateway.post(raw)
        rest_of: list[Any] = list(lines)
    assert rest_of[-2:] == ["data: [DONE]", ""] or rest_of[-1] == "data: [DONE]"
    wait_until(lambda: gateway.metrics()["tidegate_inflight_requests"] == 0)


ENCODED = (
    "/v1%2Fchat/completions", "/v1/ch%61t/completions", "/v1/chat/completions%00", "/%76%31/chat/completions",
    "/m%63p", "/v1/%66iles", "http://x/v1%2fchat/completions", "/internal%2Fdelegations",
)  # fmt: skip
UNLIKE = (
    "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/", "/v1/chat/completions;a=1",
    "/v1/./chat/completions", "/v1/x/../chat/completions", "/V1/chat/completions", "/internal/delegations",
)  # fmt: skip


@pytest.mark.parametrize("target", ENCODED + UNLIKE)
def test_a_path_has_one_spelling(gateway: Gateway, fake: Fake, target: str) -> None:
    """A proxy in front compares paths letter by letter, so the gateway does, too."""
    fake.forget()
    raw = head(gateway).replace(b"/v1/chat/completions", target.encode(), 1) + LENGTH + b"\r\n" + BODY
    assert exchange(gateway, raw).startswith(b"HTTP/1.1 404 ")
    assert fake.truth()["requests"] == 0


def test_escapes_are_for_queries_and_names_of_models(gateway: Gateway) -> None:
    good = head(gateway) + LENGTH + b"\r\n" + BODY
    for target in (b"/v1/chat/completions?x=%2F", b"http://other/v1/chat/completions"):
        assert exchange(gateway, good.replace(b"/v1/chat/completions", target, 1)).startswith(b"HTTP/1.1 200 ")
    raw = b"GET /v1/models/%s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + gateway.key.encode() + b"\r\n\r\n"
    assert exchange(gateway, raw % b"%6D").startswith(b"HTTP/1.1 200 ")
    for name in (b"..%2Fmodels", b"m%00", b"%ff"):
        assert exchange(gateway, raw % name).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("name", [b"authorization: Bearer ", b"x-api-key: "])
def test_two_credentials_of_one_kind_are_refused(gateway: Gateway, fake: Fake, name: bytes) -> None:
    fake.forget()
    for first, second in ((gateway.key, "tg-other"), ("tg-other", gateway.key), (gateway.key, gateway.key)):
        lines = b"".join(name + value.encode() + b"\r\n" for value in (first, second))
        raw = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + lines
        assert exchange(gateway, raw + LENGTH + b"\r\n" + BODY).startswith(b"HTTP/1.1 400 ")
    assert fake.truth()["requests"] == 0


def test_a_refusal_from_the_head_alone_does_not_wait_for_the_body(gateway: Gateway) -> None:
    for path in (b"/v1/chat/completions", b"/v1/files", b"/mcp", b"/v1/audio/transcriptions"):
        raw = (
            b"POST " + path + b" HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nobody\r\ncontent-length: 9000000\r\n\r\n"
        )
        answer = exchange(gateway, raw + b"x" * 9000)
        assert (
            answer.startswith(b"HTTP/1.1 401 ") and b"connection: close\r\n" in answer and answer.endswith(b"<closed>")
        )
