"""Sound files: passed on as they come, checked on their way, never held whole."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest
from openai import OpenAI

from tests.gateway.test_relay import resident_mb
from tests.stand import Fake, Gateway, chat_chunk, http, json_steps, said, sse, stream_steps, wait_until

PATH = "/v1/audio/transcriptions"
BOUNDARY = "X-boundary"
SOUND = os.urandom(700_000) + b"\r\n--X-boundarx\r\n--" + os.urandom(100)


def field(name: str, value: str | bytes, filename: str | None = None) -> bytes:
    """One part of the form."""
    file = f'; filename="{filename}"' if filename else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
FORM = field("model", "m") + field("response_format", "json") + field("file", SOUND, "a.wav") + END


def send(gateway: Gateway, form: Any, *, path: str = PATH, key: str | None = None) -> httpx.Response:
    """An upload; a form that is an iterator goes in chunks."""
    headers = {
        "authorization": f"Bearer {key or gateway.key}",
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    return http.post(gateway.url + path, content=form, headers=headers, timeout=30)


@contextmanager
def opened(gateway: Gateway, length: int) -> Iterator[socket.socket]:
    """A connection on which the head of an upload of `length` bytes has been sent."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as sender:
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: {length}\r\n"
        sender.sendall(f"{head}content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode())
        yield sender


@pytest.mark.parametrize("path", [PATH, "/v1/audio/translations"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_form_is_passed_on_byte_for_byte(gateway: Gateway, fake: Fake, path: str, chunked: bool) -> None:
    fake.forget()
    form = (FORM[at : at + 50_001] for at in range(0, len(FORM), 50_001)) if chunked else FORM
    answer = send(gateway, form, path=path)
    assert answer.status_code == 200 and answer.json()["text"] == "tok tok"
    (seen,) = fake.seen()
    headers = dict(seen["headers"])
    assert seen["path"] == path and seen["body"] == FORM
    assert headers["content-type"] == f"multipart/form-data; boundary={BOUNDARY}"
    assert ("transfer-encoding" in headers) == chunked and ("content-length" in headers) != chunked
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["outcome"], row["path"]) == ("ok", path)


def test_openais_client_uploads(gateway: Gateway) -> None:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        assert client.audio.transcriptions.create(model="m", file=("a.wav", SOUND)).text == "tok tok"


def test_a_file_is_sent_on_while_it_arrives_and_never_held(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    size = 24_000_000
    start = (
        field("model", "m")
        + f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
    )
    end = b"\r\n" + END
    with opened(gateway, len(start) + size + len(end)) as sender:
        sender.sendall(start)
        before = resident_mb(gateway)
        for _ in range(size // 1_000_000):
            sender.sendall(bytes(1_000_000))
        wait_until(lambda: fake.truth()["received_bytes"] >= len(start) + size - 100, 5, "the file to be there already")
        assert resident_mb(gateway) - before < 8
        sender.sendall(end)
        assert sender.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_model_may_come_after_a_small_file(gateway: Gateway, fake: Fake) -> None:
    form = field("file", b"x" * 200_000, "a.wav") + field("model", "m") + END
    assert send(gateway, form).status_code == 200
    large = field("file", b"x" * 2_000_000, "a.wav") + field("model", "m") + END
    fake.forget()
    answer = send(gateway, large)
    assert answer.status_code == 400 and "before the file" in answer.json()["error"]["message"]
    assert fake.truth()["requests"] == 0


def test_a_model_may_have_another_name_behind_the_door(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway(
        models=[{"name": "ears", "upstream_model": "org/whisper-large", "replicas": [{"url": fake.url}]}]
    )
    fake.forget()
    answer = send(gateway, FORM.replace(field("model", "m"), field("model", "ears")))
    assert answer.status_code == 200, answer.text
    assert fake.seen()[0]["body"] == FORM.replace(field("model", "m"), field("model", "org/whisper-large"))


@pytest.mark.parametrize(
    ("form", "status", "told"),
    [
        (b"no form at all", 400, "not a valid form"),
        (field("file", b"x", "a") + END, 400, "no field `model`"),
        (field("model", "m") + field("file", b"x", "a"), 400, "ends too early"),
        (field("model", "m") + field("model", "n") + END, 400, "one field 'model'"),
        (field("model", "m", "model.txt") + END, 400, "one field 'model'"),
        (field("model", "nobodys") + END, 404, "does not exist"),
        (field("model", "m") + field("prompt", "x" * 70_000) + END, 400, "longer than"),
        (field("model", "m") + b"".join(field(f"f{n}", "x") for n in range(70)) + END, 400, "more than 64"),
        (field("model", "m") + field("prompt", b"\xff") + END, 400, "not UTF-8"),
        (field("prompt", "4111 1111 1111 1111") + field("model", "m") + END, 400, "card"),
        (field("model", "m") + field("file", SOUND, "a") + field("prompt", "4111 1111 1111 1111") + END, 400, "card"),
        (field("model", "m") + field("file", SOUND, "a") + field("model", "n") + END, 400, "one field 'model'"),
    ],
)
def test_a_form_that_must_not_pass_does_not(gateway: Gateway, fake: Fake, form: bytes, status: int, told: str) -> None:
    fake.forget()
    before = fake.truth()["open_connections"]
    answer = send(gateway, form)
    assert answer.status_code == status and told in answer.json()["error"]["message"], answer.text
    truth = wait_until(lambda: truth if (truth := fake.truth())["open_connections"] <= before else None)
    assert truth["answered"] == 0, "what had begun was broken off, not completed"


def test_only_a_form_is_taken(gateway: Gateway) -> None:
    assert gateway.post({"model": "m"}, path=PATH).status_code == 415


def test_a_form_has_a_limit(own_gateway: Any) -> None:
    gateway = own_gateway(settings={"gateway": {"max_upload_bytes": 100_000}})
    assert send(gateway, FORM).status_code == 413
    assert send(gateway, iter([FORM[:60_000], FORM[60_000:]])).status_code == 413


def test_who_hangs_up_in_mid_upload_leaves_nothing_behind(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway()
    before = fake.truth()["open_connections"]
    with opened(gateway, len(FORM)) as sender:
        sender.sendall(FORM[:400_000])
        wait_until(lambda: fake.truth()["open_connections"] > before)
    wait_until(lambda: fake.truth()["open_connections"] == before)
    row = wait_until(lambda: gateway.usage())[0]
    assert row["outcome"] == "cancelled"


def test_a_model_server_that_takes_nothing_has_failed(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway(settings={"relay": {"idle_timeout_s": 0.5}})
    fake.script("stuck", {"stall": True})
    http.put(f"{fake.url}/__early/stuck")
    with opened(gateway, 30_000_000) as sender:
        sender.settimeout(5)
        sender.sendall(FORM[:400_000])
        with pytest.raises(OSError):
            while True:
                sender.sendall(bytes(1_000_000))
    assert wait_until(gateway.usage)[0]["outcome"] == "upstream_error"


def test_a_form_that_stops_coming_is_408(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway(settings={"gateway": {"body_timeout_s": 0.5}})
    with opened(gateway, len(FORM)) as sender:
        for at in range(0, 400_000, 100_000):  # slow, but it comes
            sender.sendall(FORM[at : at + 100_000])
            time.sleep(0.2)
        assert sender.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [2_000, 500_000], ids=["while the rest is awaited", "while nothing is taken"])
def test_an_answer_before_the_end_of_the_form_is_passed_on(gateway: Gateway, fake: Fake, sent: int) -> None:
    error = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 413}}
    fake.script("early", {"sleep_ms": 200}, *json_steps(error, 413))
    http.put(f"{fake.url}/__early/early")
    with opened(gateway, 30_000_000) as sender:
        sender.settimeout(5)
        sender.sendall(FORM[:sent])
        assert sender.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_model_server_that_breaks_off_while_the_form_is_awaited_is_told_at_once(gateway: Gateway, fake: Fake) -> None:
    fake.script("cut", {"sleep_ms": 200}, {"cut": "rst"})
    http.put(f"{fake.url}/__early/cut")
    with opened(gateway, 30_000_000) as sender:
        sender.settimeout(5)
        sender.sendall(FORM[:2_000])
        head = sender.recv(65536).decode()
    assert head.startswith("HTTP/1.1 502")
    request_id = head.partition("x-tidegate-request-id: ")[2].partition("\r\n")[0]
    assert gateway.usage_of(request_id)["outcome"] == "upstream_error"


def test_who_hangs_up_during_an_early_answer_leaves_nothing_behind(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway()
    before = fake.truth()["open_connections"]
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    fake.script("early", {"send": head}, {"stall": True})
    http.put(f"{fake.url}/__early/early")
    with opened(gateway, 30_000_000) as sender:
        sender.sendall(FORM[:2_000])
        wait_until(lambda: fake.truth()["open_connections"] > before)
        time.sleep(0.2)
    assert wait_until(gateway.usage)[0]["outcome"] == "cancelled"


def test_a_transcript_may_stream(gateway: Gateway, fake: Fake) -> None:
    name = fake.script(
        "heard", *stream_steps(sse(chat_chunk("he"), chat_chunk("llo"), chat_chunk(finish="stop"), "[DONE]"))
    )
    fake.turn("fake", name, name)
    for form in (field("stream", "true") + FORM, FORM.replace(END, field("stream", "true") + END)):
        answer = send(gateway, form)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (
            said([json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]) == "hello"
        )


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_card_number_that_was_heard_is_masked(gateway: Gateway, fake: Fake, form: str) -> None:
    heard = "it is 4111 1111 1111 1111"
    words = [{"word": "4111", "start": 0, "end": 1}]
    body: Any = {"text": heard, "words": words, "language": "en"} if form == "json" else heard
    fake.turn("fake", fake.script("heard", *json_steps(body)))
    answer = send(gateway, FORM)
    assert "4111" not in answer.text and "it is" in answer.text
    assert form == "text" or answer.json()["language"] == "en"
    assert gateway.usage_of(answer.headers["x-tidegate-request-id"])["outcome"] == "filtered"


# -- one reading of a form ----------------------------------------------------------------------------------------------


def sent_as(gateway: Gateway, form: bytes, content_type: str) -> httpx.Response:
    """An upload under a content type of the test's own."""
    headers = {**gateway.headers, "content-type": content_type}
    return http.post(gateway.url + PATH, content=form, headers=headers, timeout=30)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=X-boundary; charset=utf-7",
        "multipart/form-data; charset=latin-1; boundary=X-boundary",
        "multipart/form-data; boundary=X-boundary; CHARSET=cp037",
        'multipart/form-data; boundary=X-boundary; charset="utf-16"',
        "multipart/form-data; boundary=X-boundary; charset*=utf-8''utf-7",
        "multipart/form-data; boundary=X-boundary; charset=utf-8; charset=utf-7",
        "multipart/form-data; boundary=other; boundary=X-boundary",
        "multipart/form-data; boundary*=X-boundary",
        'multipart/form-data; boundary="X-bound\\ary"',
        "multipart/mixed; boundary=X-boundary",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 71,
    ],
)
def test_a_form_is_utf_8_and_nothing_else(gateway: Gateway, fake: Fake, content_type: str) -> None:
    """A field named `+AG0-odel` is a second model to a parser that decodes names as UTF-7; `+ADQ-` is a digit."""
    fake.forget()
    hidden = field("model", "m") + field("+AG0-odel", "secret") + field("prompt", "+ADQ-+ADE-11 1111 1111 1111") + END
    for form in (hidden, FORM):
        answer = sent_as(gateway, form, content_type)
        assert answer.status_code == 415 and "in UTF-8" in answer.json()["error"]["message"]
    assert fake.truth()["requests"] == 0


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="X-boundary"',
        "multipart/form-data;charset=utf-8;boundary=X-boundary",
        "Multipart/Form-Data; Boundary=X-boundary; Charset=UTF-8",
    ],
)
def test_the_content_type_goes_upstream_in_one_form_only(gateway: Gateway, fake: Fake, content_type: str) -> None:
    fake.forget()
    assert sent_as(gateway, FORM, content_type).status_code == 200
    (seen,) = fake.seen()
    assert dict(seen["headers"])["content-type"] == "multipart/form-data; boundary=X-boundary" and seen["body"] == FORM


def head_of(*lines: str) -> bytes:
    """A part with these header lines and the text `secret`."""
    return f"--{BOUNDARY}\r\n".encode() + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\nsecret\r\n"


_MODEL = 'content-disposition: form-data; name="model"'


@pytest.mark.parametrize(
    "part",
    [
        head_of("content-disposition: form-data; name*=utf-8''model"),
        head_of("content-disposition: form-data; name*0=mo; name*1=del"),
        head_of('content-disposition: form-data; name="x"; name="model"'),
        head_of('content-disposition: form-data; name="x\\"; name="model"'),
        head_of('content-disposition: form-data; name="mod\\el"'),
        head_of('content-disposition: form-data; name="+AG0-odel"'),
        head_of('content-disposition: form-data; name="\xedodel"'),
        head_of('content-disposition: form-data; x="; name="model"; y="'),
        head_of("content-disposition: form-data; name=\"file\"; filename*=utf-8''a.wav"),
        head_of('content-disposition: attachment; name="model"'),
        head_of('content-disposition: form-data; name="x"', _MODEL),
        head_of('content-disposition: form-data; name="prompt"', "content-type: text/plain; charset=utf-7"),
        head_of('content-disposition: form-data; name="prompt"', "content-transfer-encoding: base64"),
        head_of('content-disposition: form-data; name="prompt"', "content-transfer-encoding: quoted-printable"),
        head_of('content-disposition: form-data; name="prompt"', "x-other: 1"),
        head_of('content-disposition: form-data; name="prompt"', " ; name=model"),
        head_of('content-disposition: form-data; name="prompt"\n' + _MODEL),
        head_of('content-disposition: form-data; name="_charset_"'),
        head_of('content-disposition: form-data; name="4111111111111111"'),
        head_of(f"x: {'y' * 5000}", _MODEL),
        head_of("x"),
        field("prompt", b"x\r\n--X-boundary \r\n" + head_of(_MODEL)),
        field("prompt", b"x\r\n--X-boundary- \r\n"),
        field("prompt", b"--X-boundary\r\n"),
        field("prompt", "x", "prompt.txt"),
        field("file", "x") + field("file", "y", "a"),
        field("stream", "perhaps"),
        field("stream", "false") + field("stream", "true"),
        field("n", "1") + END + field("model", "secret"),
    ],
)
def test_a_form_that_parsers_may_read_differently_is_refused(gateway: Gateway, fake: Fake, part: bytes) -> None:
    answered = fake.truth()["answered"]
    for form in (part + field("model", "m") + END, field("model", "m") + field("file", SOUND, "a") + part + END):
        answer = send(gateway, form)
        assert answer.status_code == 400, answer.text
    assert fake.truth()["answered"] == answered


@pytest.mark.parametrize("form", [b"before\r\n" + FORM, b"\r\nbefore--" + FORM, FORM + b"after", FORM + b"\r\n" + FORM])
def test_nothing_stands_around_a_form(gateway: Gateway, form: bytes) -> None:
    assert send(gateway, form).status_code == 400


def test_guarded_fields_are_guarded_in_forms_too(own_gateway: Any, fake: Fake) -> None:
    policies = [{"name": "default", "guardrails": [{"type": "pan"}], "allow_request_fields": ["vllm_xargs"]}]
    gateway = own_gateway(policies=policies)
    fake.forget()
    for name in ("priority", "cache_salt", "request_id", "session_id", "priority[x]", "cache_salt.y"):
        for form in (field(name, "1") + FORM, FORM.replace(END, field(name, "1") + END)):
            answer = send(gateway, form)
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "field_not_allowed", answer.text
    assert send(gateway, field("vllm_xargs", "{}") + FORM).status_code == 200
    assert send(gateway, field("vllm_xargs", "{}") * 2 + FORM).status_code == 400
    assert [seen["body"] for seen in fake.seen()] == [field("vllm_xargs", "{}") + FORM]


CLIENTS = {
    "browser": FORM,
    "dotnet": head_of("Content-Type: text/plain; charset=utf-8", "Content-Disposition: form-data; name=prompt")
    + head_of(_MODEL).replace(b"secret", b"m")
    + head_of("Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav"),
    "java": head_of(_MODEL, "Content-Type: text/plain;charset=UTF-8", "Content-Length: 1").replace(b"secret", b"m")
    + head_of(
        'Content-Disposition: form-data; name="file"; filename="C:\\sound; a.wav"',
        "Content-Type: audio/wav",
        "Content-Transfer-Encoding: binary",
    ),
    "openai": head_of(_MODEL).replace(b"secret", b"m")
    + head_of('Content-Disposition: form-data; name="timestamp_granularities[]"') * 2
    + field("file", "x", "größe%22.wav"),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_what_common_clients_send_is_passed_on(gateway: Gateway, fake: Fake, client: str) -> None:
    fake.forget()
    form = CLIENTS[client] if client == "browser" else CLIENTS[client] + END
    answer = send(gateway, form)
    assert answer.status_code == 200, answer.text
    assert fake.seen()[0]["body"] == form


@pytest.mark.parametrize("value", ["t", "Y", "ON", "1"])
def test_a_stream_is_whatever_the_model_server_takes_for_one(gateway: Gateway, fake: Fake, value: str) -> None:
    name = fake.script("heard", *stream_steps(sse(chat_chunk("hello"), chat_chunk(finish="stop"), "[DONE]")))
    fake.turn("fake", name)
    answer = send(gateway, field("stream", value) + FORM)
    assert gateway.usage_of(answer.headers["x-tidegate-request-id"])["stream"]
