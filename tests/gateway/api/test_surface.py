"""Every path of a model server that callers may reach, and none besides."""

import json
from typing import Any

import pytest

from gateway.api.routes import ROUTES
from tests.stand import Fake, Gateway, http, json_steps, sse, stream_steps

ASK: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/rerank": {"query": "q", "documents": ["d"]},
    "/v2/rerank": {"query": "q", "documents": ["d"]},
    "/rerank": {"query": "q", "documents": ["d"]},
    "/v1/score": {"text_1": "a", "text_2": "b"},
    "/score": {"text_1": "a", "text_2": "b"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}
TOKENS = {
    "/v1/chat/completions": (10, 64), "/v1/completions": (10, 64), "/v1/messages": (10, 5), "/v1/embeddings": (10, 0),
    "/v1/rerank": (10, 0), "/v2/rerank": (10, 0), "/rerank": (10, 0), "/v1/score": (10, 0), "/score": (10, 0),
    "/tokenize": (0, 0), "/detokenize": (0, 0), "/v1/messages/count_tokens": (0, 0),
}  # fmt: skip


def test_every_path_of_a_model_server_is_asked_here() -> None:
    hot = {route.path for route in ROUTES if route.operation is not None and not route.operation.upload}
    assert hot == set(ASK) == set(TOKENS)


@pytest.mark.parametrize("path", ASK)
def test_every_path_passes_request_and_answer_on_byte_for_byte(gateway: Gateway, fake: Fake, path: str) -> None:
    body = {"model": "m", "unknown": [1.50], **ASK[path]}
    direct = http.post(f"{fake.url}{path}", json=body)
    fake.forget()
    through = gateway.post(body, path=path)
    assert through.status_code == 200 and through.content == direct.content
    (seen,) = fake.seen()
    assert seen["path"] == path and seen["body"] == through.request.content
    row = gateway.usage_of(through.headers["x-tidegate-request-id"])
    assert (row["path"], row["outcome"]) == (path, "ok")
    assert (row["input_tokens"], row["output_tokens"]) == TOKENS[path]


@pytest.mark.parametrize("path", ASK)
def test_every_path_checks_key_model_and_guardrails(gateway: Gateway, path: str) -> None:
    anthropic = "/messages" in path
    for body, status, code, kind in (
        ({"model": "nobodys"}, 404, "model_not_found", "not_found_error"),
        ({"model": "m", "user": "4111 1111 1111 1111"}, 400, "content_filter", "invalid_request_error"),
        ({"model": "m", "priority": -1}, 400, "field_not_allowed", "invalid_request_error"),
    ):
        answer = gateway.post({**ASK[path], **body}, path=path)
        error = answer.json()["error"]
        assert answer.status_code == status
        assert error["type"] == kind if anthropic else error["code"] == code
    assert gateway.post({"model": "m"}, path=path, key="tg-wrong").status_code == 401


def test_a_path_that_generates_nothing_is_never_a_stream(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    answer = gateway.post({"model": "m", "input": "hi", "stream": True}, path="/v1/embeddings")
    assert answer.json()["data"] and b"stream_options" not in fake.seen()[0]["body"]


UNREACHABLE = [
    f"/{path}"
    for path in (
        "metrics", "load", "version", "ping", "sleep", "wake_up", "is_sleeping", "reset_prefix_cache", "collective_rpc",
        "server_info", "v1/load_lora_adapter", "v1/unload_lora_adapter", "pooling", "classify", "invocations",
        "abort_requests", "inference/v1/generate", "v1/chat/completions/render", "v1/completions/render",
        "v1/responses/x/cancel", "tokenizer_info", "kv_event_sources", "v1//chat/completions", "V1/chat/completions",
    )
]  # fmt: skip


@pytest.mark.parametrize("path", UNREACHABLE)
def test_nothing_else_of_a_model_server_is_reachable(gateway: Gateway, fake: Fake, path: str) -> None:
    fake.forget()
    for method in ("GET", "POST"):
        answer = http.request(method, gateway.url + path, headers=gateway.headers, json={"model": "m"})
        assert answer.status_code in (404, 405), path
    assert fake.truth()["requests"] == 0


def test_media_that_the_model_server_would_fetch_is_refused_on_every_path(gateway: Gateway) -> None:
    url, image = "http://10.0.0.1/x.png", {"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    for path, body in {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": [image]}]},
        "/v1/embeddings": {"messages": [{"role": "user", "content": [image]}]},
        "/v1/messages": {"messages": [{"role": "user", "content": [source]}], "max_tokens": 1},
        "/v1/rerank": {"query": "q", "documents": {"content": [image]}},
        "/v1/score": {"text_1": "q", "data_2": {"content": [image]}},
        "/tokenize": {"messages": [{"role": "user", "content": [image]}]},
    }.items():
        answer = gateway.post({"model": "m", **body}, path=path)
        assert answer.status_code == 400 and "Media must be given" in answer.json()["error"]["message"], path


def test_a_tool_that_speaks_of_urls_is_no_media(gateway: Gateway) -> None:
    schema = {"type": "object", "properties": {"image_url": {"type": "string", "default": "http://example.com/a.png"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    metadata = {"callback_url": "http://example.com"}
    assert gateway.chat(tools=tools, metadata=metadata, max_tokens=1).status_code == 200


def test_messages_stream_as_they_are_made(gateway: Gateway, fake: Fake) -> None:
    body = {"model": "m", "stream": True, **ASK["/v1/messages"]}
    direct = http.post(f"{fake.url}/v1/messages", json=body)
    through = gateway.post(body, path="/v1/messages")
    assert through.content == direct.content and through.headers["content-type"].startswith("text/event-stream")
    row = gateway.usage_of(through.headers["x-tidegate-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (10, 5, "reported")


def test_messages_tell_what_came_from_the_cache(gateway: Gateway, fake: Fake) -> None:
    usage = {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 2}
    body = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    name = fake.script("cache", *json_steps(body))
    answer = gateway.post({"model": "m", "fake_script": name, **ASK["/v1/messages"]}, path="/v1/messages")
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (10, 6, 2)


def message_events(*texts: str, stop: str | None = "end_turn") -> list[str]:
    """A message stream's events as text."""

    def event(name: str, **fields: Any) -> str:
        return f"event: {name}\n" + sse({"type": name, **fields})

    start = {"id": "msg", "type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 1}}
    said = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in texts]
    last = [event("message_delta", delta={"stop_reason": stop}, usage={"output_tokens": 1})] if stop else []
    return [
        event("message_start", message=start),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *said,
        event("content_block_stop", index=0),
        *last,
        event("message_stop"),
    ]


def ask_messages(gateway: Gateway, fake: Fake, *events: str) -> str:
    name = fake.script("message", *stream_steps(*events))
    return gateway.post(
        {"model": "m", "stream": True, "fake_script": name, **ASK["/v1/messages"]}, path="/v1/messages"
    ).text


def types(text: str) -> list[str]:
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


def test_a_message_stream_without_an_end_is_an_error(gateway: Gateway, fake: Fake) -> None:
    assert types(ask_messages(gateway, fake, *message_events("a", stop=None)))[-1] == "error"
    assert types(ask_messages(gateway, fake, *message_events("a")[:-1]))[-1] == "error"
    whole = ask_messages(gateway, fake, *message_events("a"))
    assert whole == "".join(message_events("a"))


@pytest.mark.parametrize(
    "pieces", [["no 4111 1111 1111 1111 here"], list("no 4111 1111 1111 1111"), ["a ", "4111111111111111"]]
)
def test_a_card_number_does_not_leave_in_a_message_stream(gateway: Gateway, fake: Fake, pieces: list[str]) -> None:
    text = ask_messages(gateway, fake, *message_events(*pieces))
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    shown = "".join(event["delta"].get("text", "") for event in events if "delta" in event)
    assert "".join(pieces).startswith(shown) and "4111" not in shown
    assert types(text)[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "refusal"


def test_a_card_number_does_not_leave_in_a_whole_message(gateway: Gateway, fake: Fake) -> None:
    blocks = [
        {"type": "text", "text": "first"},
        {"type": "text", "text": "it is 4111 1111 1111 1111"},
        {"type": "text", "text": "x"},
    ]
    body = {
        "type": "message",
        "content": blocks,
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 9},
    }
    name = fake.script("leak", *json_steps(body))
    answer = gateway.post({"model": "m", "fake_script": name, **ASK["/v1/messages"]}, path="/v1/messages").json()
    assert [block["text"] for block in answer["content"]] == ["first", "it is "] and answer["stop_reason"] == "refusal"


def test_anthropics_header_carries_the_key(gateway: Gateway) -> None:
    body = {"model": "m", **ASK["/v1/messages"]}
    for path in ("/v1/messages", "/v1/chat/completions"):
        answer = http.post(gateway.url + path, json=body, headers={"x-api-key": gateway.key})
        assert answer.status_code == 200
    assert http.post(gateway.url + "/v1/messages", json=body, headers={"x-api-key": "tg-x"}).status_code == 401
    assert http.get(gateway.url + "/v1/models", headers={"x-api-key": gateway.key}).status_code == 200


def test_the_key_in_anthropics_header_never_goes_on(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    http.post(
        gateway.url + "/v1/messages", json={"model": "m", **ASK["/v1/messages"]}, headers={"x-api-key": gateway.key}
    )
    assert gateway.key not in str(fake.seen()[0]["headers"])
