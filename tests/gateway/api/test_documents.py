"""Files, vector stores and embeddings through the gateway's door, driven by the official client."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from gateway.api.routes import ROUTES
from tests.knowledge_stand import Knowledge
from tests.stand import Fake, Gateway, http, json_steps, log_of

PAN = "4111 1111 1111 1111"
EMBEDDER = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def desk(fake: Fake, knowledge: Knowledge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = [
        {"name": "m", "replicas": [{"url": fake.url}]},
        {"name": EMBEDDER, "replicas": [{"url": knowledge.url, "audience": "knowledge"}]},
    ]
    projects = [
        {"name": "demo", "all_models": True},
        {"name": "other", "all_models": True},
        {"name": "slow", "all_models": True, "limits": {"requests_per_minute": 2}},
    ]
    made = Gateway(
        tmp_path_factory.mktemp("documents"), [], models=models, projects=projects, settings=knowledge.gateway_settings
    )
    yield made
    made.process.stop()


@pytest.fixture(scope="module")
def client(desk: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{desk.url}/v1", api_key=desk.key, max_retries=0) as made:
        yield made


def test_openais_client_brings_a_document_in_finds_it_and_takes_it_out(client: OpenAI) -> None:
    file = client.files.create(
        file=("tides.md", b"# Tides\n\nSpring tide follows the full moon by two days."), purpose="assistants"
    )
    assert (file.object, file.status, file.filename, file.bytes) == ("file", "processed", "tides.md", 55)
    store = client.vector_stores.create(name="harbour", metadata={"team": "pilots"})
    entry = client.vector_stores.files.create_and_poll(
        vector_store_id=store.id, file_id=file.id, attributes={"year": 2026}, poll_interval_ms=200
    )
    assert entry.status == "completed" and entry.attributes == {"year": 2026} and entry.usage_bytes > 0
    store = client.vector_stores.retrieve(store.id)
    assert store.status == "completed" and store.file_counts.completed == 1 and store.metadata == {"team": "pilots"}
    (hit,) = client.vector_stores.search(store.id, query="when is spring tide?").data
    assert hit.file_id == file.id and "two days" in hit.content[0].text and 0 < hit.score <= 1
    assert file.id in {item.id for item in client.files.list()}
    assert store.id in {item.id for item in client.vector_stores.list()}
    assert [item.id for item in client.vector_stores.files.list(store.id, filter="completed")] == [file.id]
    assert "two days" in next(iter(client.vector_stores.files.content(file.id, vector_store_id=store.id))).text  # type: ignore[operator]
    assert "two days" in client.files.content(file.id).text
    assert client.vector_stores.update(store.id, name="port").name == "port"
    client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    assert client.vector_stores.search(store.id, query="spring tide").data == []
    assert client.files.delete(file.id).deleted and client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_upload_and_poll_works(client: OpenAI) -> None:
    store = client.vector_stores.create(name="polled")
    entry = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("a.txt", b"alpha"), poll_interval_ms=200
    )
    assert entry.status == "completed"


def test_another_key_of_another_project_sees_none_of_it(client: OpenAI, desk: Gateway) -> None:
    file = client.files.create(file=("mine.md", b"mine alone"), purpose="assistants")
    with OpenAI(base_url=f"{desk.url}/v1", api_key=desk.known_key("other"), max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            other.files.delete(file.id)
        assert file.id not in {item.id for item in other.files.list()}


def test_the_callers_own_credential_never_leaves_the_gateway(desk: Gateway, fake: Fake, own_gateway: Any) -> None:
    """With the fake in the place of the knowledge service: it sees an internal token and nothing of the key."""
    models = [{"name": "e", "replicas": [{"url": fake.url, "audience": "knowledge"}]}]
    gateway = own_gateway(models=models, settings={"knowledge": {"url": fake.url}})
    fake.forget()
    headers = {
        **gateway.headers,
        "cookie": "a=b",
        "x-secret": "c",
        "openai-organization": "o",
        "content-type": "application/json",
    }
    script = fake.script("service", *json_steps({"object": "anything", "data": []}))
    assert gateway.post({"fake_script": script}, path="/v1/vector_stores", headers=headers).status_code == 200
    body = {"model": "e", "input": "x", "fake_script": script}
    assert gateway.post(body, path="/v1/embeddings", headers=headers).status_code == 200
    seen = fake.seen()
    assert [row["path"] for row in seen] == ["/v1/vector_stores", "/v1/embeddings"]
    for row in seen:
        names = dict(row["headers"])
        assert names["authorization"].startswith("Bearer ey") and not {
            "cookie",
            "x-secret",
            "openai-organization",
        } & set(names)
        assert gateway.key not in str(row) and gateway.key.split("-")[2] not in str(row)


def test_embeddings_are_routed_and_metered_like_any_call(client: OpenAI, desk: Gateway) -> None:
    answer = client.embeddings.with_raw_response.create(model=EMBEDDER, input=["spring tide", "neap tide"])
    parsed = answer.parse()
    assert [len(item.embedding) for item in parsed.data] == [384, 384]
    row = desk.usage_of(answer.headers["x-tidegate-request-id"])
    assert row["path"] == "/v1/embeddings" and row["model"] == EMBEDDER and row["usage_source"] == "reported"
    assert (row["input_tokens"], row["output_tokens"]) == (parsed.usage.prompt_tokens, 0)
    with pytest.raises(openai.BadRequestError, match="256"):
        client.embeddings.create(model=EMBEDDER, input="word " * 400)
    with pytest.raises(openai.BadRequestError, match="payment card number"):
        client.embeddings.create(model=EMBEDDER, input=f"card {PAN}")
    with pytest.raises(openai.BadRequestError, match="token ids"):
        client.embeddings.create(model=EMBEDDER, input=[[1, 2, 3]])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=EMBEDDER, messages=[{"role": "user", "content": "hi"}])


def test_guardrails_read_file_names_files_and_bodies(client: OpenAI, desk: Gateway, knowledge: Knowledge) -> None:
    for name, data in ((f"{PAN}.md", b"x"), ("a.md", PAN.encode())):
        with pytest.raises(openai.BadRequestError, match="payment card number"):
            client.files.create(file=(name, data), purpose="assistants")
    with pytest.raises(openai.BadRequestError, match="payment card number"):
        client.vector_stores.create(name=f"store {PAN}")
    store = client.vector_stores.create(name="clean")
    with pytest.raises(openai.BadRequestError, match="payment card number"):
        client.vector_stores.search(store.id, query=PAN)
    assert PAN not in desk.process.text() + knowledge.process.text()


def test_no_document_path_is_open_without_a_key(desk: Gateway) -> None:
    routes = [route for route in ROUTES if route.service]
    assert len(routes) >= 17
    for route in routes:
        path = route.path.replace("{", "").replace("}", "")
        answer = http.request(route.method, desk.url + path)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "missing_api_key", path


def test_strange_ids_do_not_reach_the_service(desk: Gateway, knowledge: Knowledge) -> None:
    asked = log_of(knowledge.process, knowledge.management_port).count('"request"')
    for path in (
        "/v1/files/..%2f..%2finternal%2fsearch",
        "/v1/files/a%20b",
        "/v1/files/%00",
        "/v1/files/" + "x" * 65,
        "/internal/search",
    ):
        answer = http.get(desk.url + path, headers=desk.headers)
        assert answer.status_code == 404, path
    assert log_of(knowledge.process, knowledge.management_port).count('"request"') == asked


def test_bodies_are_bounded_and_of_the_right_kind(desk: Gateway) -> None:
    url, json_type = f"{desk.url}/v1/vector_stores", {**desk.headers, "content-type": "application/json"}
    assert http.post(url, headers=json_type, content=b'{"name": "' + b"x" * 11_000_000 + b'"}').status_code == 413
    assert http.post(url, headers={**desk.headers, "content-type": "text/plain"}, content=b"{}").status_code == 415
    assert http.post(url, headers=json_type, content=b"{").status_code == 400
    assert http.post(f"{desk.url}/v1/files", headers=json_type, content=b"{}").status_code == 415
    huge = {"file": ("a.md", b"x" * 34_000_000)}
    answer = http.post(f"{desk.url}/v1/files", headers=desk.headers, files=huge, data={"purpose": "assistants"})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def test_the_projects_request_rate_holds_for_documents_too(desk: Gateway) -> None:
    headers = {"authorization": f"Bearer {desk.known_key('slow')}"}
    answers = [http.get(f"{desk.url}/v1/files", headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429] and "retry-after" in answers[2].headers


def test_a_document_request_leaves_one_log_line_and_two_metrics_and_no_ids(desk: Gateway, client: OpenAI) -> None:
    file = client.files.create(file=("quiet.md", b"hush"), purpose="assistants")
    answer = client.files.with_raw_response.retrieve(file.id)
    (line,) = [
        line for line in desk.log_lines("request") if line["request_id"] == answer.headers["x-tidegate-request-id"]
    ]
    assert line["path"] == "/v1/files/{file_id}" and line["status"] == 200 and file.id not in str(line)
    assert desk.metrics()['tidegate_service_requests_total{route="/v1/files/{file_id}",status="200"}'] >= 1


def test_when_the_knowledge_service_is_away_the_caller_is_told(own_gateway: Any) -> None:
    gateway = own_gateway(settings={"knowledge": {"url": "http://127.0.0.1:9"}})
    answer = http.get(f"{gateway.url}/v1/files", headers=gateway.headers)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "service_unavailable"
    assert gateway.post({"model": "m", "messages": []}).status_code == 200


def test_a_form_in_another_charset_is_refused(desk: Gateway) -> None:
    disposition = b'--x\r\ncontent-disposition: form-data; name="%b"'
    form = disposition % b"purpose" + b"\r\n\r\nassistants\r\n"
    form += disposition % b"file" + b'; filename="a.txt"\r\n\r\n+ADQ-+ADE-11 1111 1111 1111\r\n--x--\r\n'

    def upload(content_type: str) -> int:
        headers = {**desk.headers, "content-type": content_type}
        return http.post(f"{desk.url}/v1/files", content=form, headers=headers, timeout=30).status_code

    assert upload('multipart/form-data; boundary="x"; charset=UTF-8') == 200
    for charset in ("utf-7", "cp037", "utf-8; charset=utf-7"):
        assert upload(f"multipart/form-data; boundary=x; charset={charset}") == 415
