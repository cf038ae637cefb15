"""The public API: errors in OpenAI's shape everywhere, ids in and out, models by rights, one table of paths."""

import re
import socket
import time
from typing import Any

import httpx2 as httpx
import pytest

from gateway.api.routes import ROUTES
from tests.stand import Fake, Gateway, http


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["code"] == code, error
    assert answer.headers["x-request-id"]
    return dict(error)


def test_chat_passes_the_answer_on_byte_for_byte(gateway: Gateway, fake: Fake) -> None:
    direct = http.post(f"{fake.url}/v1/chat/completions", json={"model": "m", "max_tokens": 5})
    through = gateway.chat(max_tokens=5)
    assert through.status_code == 200 and through.content == direct.content
    assert through.headers["content-type"] == "application/json"


def test_completions_work(gateway: Gateway) -> None:
    answer = gateway.post({"model": "m", "prompt": "hi", "max_tokens": 2}, path="/v1/completions")
    assert answer.json()["choices"][0]["text"] == "tok tok "


def test_request_bytes_go_through_untouched(gateway: Gateway, fake: Fake) -> None:
    raw = b'{"unknown":{"b":1.50,"a":[1e3,"\\u00e9 \xc3\xa9"]} ,\n "model":"m","messages":[{"role":"user","content":"x"}]}'
    fake.forget()
    assert gateway.post(raw).status_code == 200
    (seen,) = fake.seen()
    assert seen["body"] == raw and seen["path"] == "/v1/chat/completions"


def test_only_allowed_headers_go_upstream(gateway: Gateway, fake: Fake) -> None:
    fake.forget()
    mine = {
        "cookie": "a=b",
        "x-vllm-priority": "-1",
        "x-session-id": "s",
        "x-request-id": "mine",
        "x-data-parallel-rank": "1",
    }
    answer = gateway.chat(
        headers={**mine, "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-00", "tracestate": "k=v"}
    )
    assert answer.headers["x-request-id"] == "mine"
    (seen,) = fake.seen()
    sent = dict(seen["headers"])
    assert sent.keys() == {"host", "content-type", "x-request-id", "traceparent", "tracestate", "content-length"}
    assert sent["x-request-id"] == answer.headers["x-tidegate-request-id"]
    assert gateway.key not in str(seen)


@pytest.mark.parametrize("theirs", ["bad id with spaces", "x" * 200, ""])
def test_a_strange_request_id_is_replaced(gateway: Gateway, theirs: str) -> None:
    answer = gateway.chat(headers={"x-request-id": theirs}, max_tokens=1)
    assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer sk-123", "Basic dGc6", "Bearer tg-abcdefghijkl-" + "a" * 38]
)
def test_without_a_good_key_nothing_is_answered(gateway: Gateway, fake: Fake, authorization: str | None) -> None:
    fake.forget()
    headers = {} if authorization is None else {"authorization": authorization}
    for path in ("/v1/models", "/v1/models/m"):
        answer = http.get(gateway.url + path, headers=headers)
        error_of(answer, 401, "missing_api_key" if authorization is None else answer.json()["error"]["code"])
        assert answer.headers["www-authenticate"] == "Bearer"
    answer = http.post(gateway.url + "/v1/chat/completions", headers=headers, json={"model": "m"})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert fake.truth()["requests"] == 0


def test_every_route_needs_a_key_unless_the_table_says_otherwise(gateway: Gateway) -> None:
    for route in ROUTES:
        answer = http.request(route.method, gateway.url + re.sub(r"\{.*?\}", "m", route.path), json={})
        if route.for_services:
            assert answer.status_code == 404, "who may not use it is not told of it"
            continue
        assert (answer.status_code == 401) != route.open_to_all, route.path
    open_paths = {route.path for route in ROUTES if route.open_to_all}
    well_known = "/.well-known/oauth-protected-resource"
    assert open_paths == {"/healthz", "/readyz", well_known, well_known + "/{path:path}"}


def test_a_crafted_host_header_opens_nothing(gateway: Gateway) -> None:
    for host in ("x/healthz?", "127.0.0.1/readyz#", "a@b"):
        answer = http.get(f"{gateway.url}/v1/models", headers={"host": host})
        assert answer.status_code in (400, 401)


def test_every_path_of_the_table_is_in_openapi(gateway: Gateway) -> None:
    document = http.get(f"{gateway.url}/openapi.json").json()
    assert "/internal" not in str(document["paths"])
    for route in (route for route in ROUTES if not route.for_services):
        operation = document["paths"][route.path.replace(":path", "")][route.method.lower()]
        assert ("security" in operation) != route.open_to_all
    schema = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "messages"]


def test_errors_have_openai_shape_everywhere(gateway: Gateway) -> None:
    get, headers = httpx.get, gateway.headers
    error_of(get(f"{gateway.url}/nope", headers=headers), 404, "not_found")
    answer = get(f"{gateway.url}/v1/chat/completions", headers=headers)
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    error_of(http.post(f"{gateway.url}/v1/models", headers=headers), 405, "method_not_allowed")
    error_of(gateway.post({"model": "m"}, headers={"content-type": "text/plain"}), 415, "unsupported_media_type")
    error_of(gateway.post({"model": "m"}, headers={"content-encoding": "gzip"}), 415, "unsupported_media_type")
    error_of(gateway.chat(model="other"), 404, "model_not_found")
    error_of(gateway.post(b"{"), 400, "invalid_request")
    error_of(gateway.post(b"\xff\xfe"), 400, "invalid_request")
    error_of(gateway.post(b"[]"), 400, "invalid_request")
    error_of(gateway.post({"messages": []}), 400, "invalid_request")
    error_of(gateway.post({"model": 3}), 400, "invalid_request")
    error_of(gateway.post({"model": "m", "prompt": [1, 2, 3]}, path="/v1/completions"), 400, "invalid_request")


@pytest.mark.parametrize("depth", [300, 600, 900, 5_000, 1_000_000])
@pytest.mark.parametrize("inside", ["[%s]", '{"a_url":%s}'])
def test_deep_nesting_is_the_callers_error(gateway: Gateway, depth: int, inside: str) -> None:
    before, after = inside.split("%s")
    raw = b'{"model":"m","messages":[%s"4111"%s]}' % (before.encode() * depth, after.encode() * depth)
    answer = gateway.post(raw[:10_000_000])
    assert answer.status_code in (200, 400), answer.text
    assert gateway.chat(max_tokens=1).status_code == 200


def test_a_trailing_slash_is_another_path(gateway: Gateway) -> None:
    answer = http.get(f"{gateway.url}/v1/models/", headers=gateway.headers, follow_redirects=False)
    assert answer.status_code == 404


def test_a_body_over_the_limit_is_413(own_gateway: Any) -> None:
    small = own_gateway(projects=[{"name": "demo", "all_models": True, "limits": {"max_body_bytes": 2000}}])
    error_of(small.chat("x" * 3000), 413, "request_too_large")
    body = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 3000 + b'"}]}'

    def pieces() -> Any:  # no content-length: the limit must hold while the body arrives
        yield body[:1500]
        yield body[1500:]

    headers = {**small.headers, "content-type": "application/json"}
    error_of(http.post(f"{small.url}/v1/chat/completions", content=pieces(), headers=headers), 413, "request_too_large")
    assert small.chat("x").status_code == 200


@pytest.mark.parametrize(
    "field",
    [
        "priority", "cache_salt", "kv_transfer_params", "vllm_xargs", "request_id", "session_id", "chat_template",
        "mm_processor_kwargs", "media_io_kwargs",
    ],
)  # fmt: skip
def test_fields_that_reach_beyond_the_request_are_refused(gateway: Gateway, fake: Fake, field: str) -> None:
    fake.forget()
    raw = b'{"model":"m","messages":[],"%s":1}'
    escaped = field.replace(field[0], f"\\u00{ord(field[0]):02x}", 1)
    for name in (field, escaped):
        assert error_of(gateway.post(raw % name.encode()), 400, "field_not_allowed")["param"] == field
    assert fake.truth()["requests"] == 0


def test_a_policy_may_allow_a_guarded_field(own_gateway: Any, fake: Fake) -> None:
    open_gateway = own_gateway(policies=[{"name": "default", "allow_request_fields": ["priority"]}])
    fake.forget()
    assert open_gateway.chat(priority=3).status_code == 200
    assert b'"priority": 3' in fake.seen()[0]["body"]
    error_of(open_gateway.chat(cache_salt="x"), 400, "field_not_allowed")


def test_media_must_be_inline(gateway: Gateway) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
    answer = gateway.post({"model": "m", "messages": [{"role": "user", "content": [part]}]})
    error_of(answer, 400, "media_url_not_allowed")


def test_models_are_filtered_by_key(own_gateway: Any, fake: Fake) -> None:
    replicas = [{"url": fake.url}]
    many = own_gateway(
        models=[{"name": name, "replicas": replicas} for name in ("a", "b", "org/c")],
        projects=[{"name": "demo", "models": ["b", "org/c"]}, {"name": "nothing"}],
    )
    listed = http.get(f"{many.url}/v1/models", headers=many.headers).json()
    assert [model["id"] for model in listed["data"]] == ["b", "org/c"]
    assert http.get(f"{many.url}/v1/models/org/c", headers=many.headers).json()["id"] == "org/c"
    error_of(http.get(f"{many.url}/v1/models/a", headers=many.headers), 404, "model_not_found")
    error_of(many.chat(model="a"), 404, "model_not_found")
    assert many.chat(model="b").status_code == 200
    nobody = many.make_key("nothing")
    time.sleep(0.3)
    answer = http.get(f"{many.url}/v1/models", headers={"authorization": f"Bearer {nobody}"})
    assert answer.json()["data"] == []


def test_a_model_may_have_another_name_behind_the_door(own_gateway: Any, fake: Fake) -> None:
    renamed = own_gateway(models=[{"name": "m", "upstream_model": "real/m", "replicas": [{"url": fake.url}]}])
    fake.forget()
    assert renamed.chat(stream=True, x=[1.50]).status_code == 200
    assert b'"model":"real/m"' in fake.seen()[0]["body"]


def test_revoked_and_new_keys_take_effect_while_serving(own_gateway: Any) -> None:
    gateway = own_gateway()
    assert gateway.chat().status_code == 200
    key_id = gateway.key.split("-")[1]
    gateway.cli("keys", "revoke", key_id, "--organisation", "acme", "--project", "demo")
    deadline = time.monotonic() + 3
    while gateway.chat().status_code != 401:
        assert time.monotonic() < deadline
    assert gateway.key not in gateway.process.text()


def test_health_and_metrics_have_their_own_port(gateway: Gateway) -> None:
    assert http.get(f"{gateway.url}/healthz").status_code == 200
    assert http.get(f"{gateway.url}/readyz").status_code == 200
    assert http.get(f"{gateway.management_url}/readyz").status_code == 200
    assert http.get(f"{gateway.url}/metrics").status_code == 404
    gateway.chat(max_tokens=1)
    assert any(name.startswith("tidegate_requests_total") for name in gateway.metrics())
    assert http.get(f"{gateway.management_url}/v1/models").status_code == 404


def test_limits_answer_429_with_retry_after(own_gateway: Any) -> None:
    tight = own_gateway(projects=[{"name": "demo", "all_models": True, "limits": {"requests_per_minute": 2}}])
    assert [tight.chat(max_tokens=1).status_code for _ in range(2)] == [200, 200]
    answer = tight.chat()
    error_of(answer, 429, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 30 and answer.headers["x-should-retry"] == "true"


def test_concurrency_is_limited_and_given_back(own_gateway: Any) -> None:
    tight = own_gateway(projects=[{"name": "demo", "all_models": True, "limits": {"concurrent_requests": 1}}])
    with tight.open_stream(max_tokens=50, fake_pace_ms=50):
        error_of(tight.chat(), 429, "rate_limit_exceeded")
    deadline = time.monotonic() + 2
    while tight.chat(max_tokens=1).status_code != 200:
        assert time.monotonic() < deadline


def test_a_full_gateway_says_so(own_gateway: Any) -> None:
    full = own_gateway(settings={"gateway": {"max_inflight_requests": 1}})
    with full.open_stream(max_tokens=50, fake_pace_ms=50):
        answer = full.chat()
        error_of(answer, 503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        assert full.metrics()['tidegate_refusals_total{code="overloaded"}'] == 1


def test_a_body_that_does_not_arrive_is_408(own_gateway: Any) -> None:
    hasty = own_gateway(settings={"gateway": {"body_timeout_s": 0.3}})
    for path in ("/v1/chat/completions", "/v1/vector_stores", "/v1/files", "/v1/responses", "/mcp"):
        with socket.create_connection(("127.0.0.1", hasty.port), timeout=5) as slow:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {hasty.key}\r\n"
            slow.sendall(f"{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 408"), path
    assert hasty.chat(max_tokens=1).status_code == 200


def test_the_database_is_the_truth_while_serving(own_gateway: Any, fake: Fake) -> None:
    gateway = own_gateway()
    error_of(gateway.chat(model="second"), 404, "model_not_found")
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("models:\n  - name: m\n", "models:\n  - name: second\n"))
    assert gateway.chat(model="m", max_tokens=1).status_code == 200  # the file alone changes nothing
    told = gateway.cli("apply")
    assert "added model 'second'" in told and "removed model 'm'" in told
    deadline = time.monotonic() + 3
    while gateway.chat(model="second", max_tokens=1).status_code != 200:
        assert time.monotonic() < deadline
    error_of(gateway.chat(model="m"), 404, "model_not_found")


def test_a_policy_may_allow_media_urls(own_gateway: Any) -> None:
    open_gateway = own_gateway(policies=[{"name": "default", "allow_media_schemes": ["data", "https"]}])
    for url, status in (("https://example.org/x.png", 200), ("http://example.org/x.png", 400)):
        part = {"type": "image_url", "image_url": {"url": url}}
        assert (
            open_gateway.post({"model": "m", "messages": [{"role": "user", "content": [part]}]}).status_code == status
        )
