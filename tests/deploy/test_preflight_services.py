"""`tidegate preflight`: what it says of the database, of model servers, and of what plug-ins use."""

import asyncio
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text
from typer.testing import CliRunner

from tests.deploy.charts import profile, render
from tests.operations.redis import OwnRedis, own_redis
from tests.stand import free_port
from tests.tidegate.store.databases import postgres_database
from tidegate.cli import app
from tidegate.config.load import Document
from tidegate.config.settings import StoreSettings
from tidegate.preflight import services
from tidegate.preflight.finding import Finding, Status
from tidegate.preflight.plan import Plan
from tidegate.store.database import Database

NOWHERE = "http://127.0.0.1:9"


@contextmanager
def answering(answers: dict[str, tuple[int, str]], key: str = "") -> Iterator[str]:
    """A server with these answers by path; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, ""))
            if key and self.headers["authorization"] != f"Bearer {key}":
                status, body = 401, ""
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with _served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _served(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def document(folder: Path, replicas: list[dict[str, Any]], **settings: Any) -> Document:
    store = {"store": {"url": f"sqlite+aiosqlite:///{folder}/test.db"}}
    models = [{"name": "chat", "upstream_model": "llama-8b", "replicas": replicas}] if replicas else []
    return Document.model_validate({"settings": store | settings, "resources": {"models": models}})


def servers(folder: Path, replica: dict[str, Any], wanted: set[str] | None = None, **settings: Any) -> list[Finding]:
    found = list(services.look(document(folder, [replica], **settings), {"tidegate-model-chat"}, wanted or set()))
    return [each for each in found if each.check != "database"]


def listed(*names: str) -> tuple[int, str]:
    return 200, json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


def test_a_model_server_serves_the_model_and_emits_what_dashboards_ask_for(tmp_path: Path) -> None:
    wanted = Plan.read(yaml.safe_dump_all(render(profile("small")))).vllm_metrics
    scraped = "".join(f"# HELP {name} words\n# TYPE {name} counter\n" for name in wanted)
    (tmp_path / "key").write_text("secret\n")
    with answering({"/v1/models": listed("llama-8b"), "/metrics": (200, scraped)}, key="secret") as url:
        found = servers(tmp_path, {"url": url, "api_key_file": str(tmp_path / "key")}, wanted)
        assert [(each.check, each.status) for each in found] == [("model-servers", "ok"), ("vllm-metrics", "ok")]
        (refused,) = servers(tmp_path, {"url": url}, wanted)
        assert refused.status is Status.FAILED and "status 401" in refused.what
        (without,) = servers(tmp_path, {"url": url, "api_key_file": str(tmp_path / "none")})
        assert without.status is Status.FAILED and "No such file" in without.what


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (listed("another", "third"), "does not serve llama-8b"),
        ((503, ""), "status 503"),
        ((200, "<html>"), "Expecting value"),
        ((200, "[1]"), "an answer of another form"),
    ],
)
def test_a_model_server_that_is_not_what_it_must_be_is_named(
    tmp_path: Path, answer: tuple[int, str], said: str
) -> None:
    with answering({"/v1/models": answer, "/metrics": (200, "")}) as url:
        first, *_ = servers(tmp_path, {"url": url})
    assert first.status is Status.FAILED and said in first.what and first.remedy


def test_a_server_that_is_away_fails_and_one_that_the_chart_brings_does_not(tmp_path: Path) -> None:
    (away,) = servers(tmp_path, {"url": NOWHERE})
    assert away.status is Status.FAILED and "Connection refused" in away.what and "network policies" in away.remedy
    for host in ("tidegate-model-chat", "tidegate-model-chat.llm.svc"):
        (ours,) = servers(tmp_path, {"url": f"http://{host}:8000", "discovery": "dns"})
        assert ours.status is Status.OK and "part of the install" in ours.what


def test_a_collector_must_be_reachable(tmp_path: Path) -> None:
    for port, status in ((free_port(), Status.FAILED), (None, Status.OK)):
        with answering({}) as url:
            endpoint = f"http://127.0.0.1:{port}/v1/traces" if port else f"{url}/v1/traces"
            telemetry = {"sinks": [{"type": "otlp", "endpoint": endpoint}]}
            found = list(services.look(document(tmp_path, [], telemetry=telemetry), set(), set()))
        assert [each.status for each in found if each.check == "collector"] == [status]


def test_qdrant_is_asked_whether_it_is_ready() -> None:
    title = json.dumps({"title": "qdrant - vector search engine", "version": "1.18.1", "commit": "0"})
    with answering({"/readyz": (200, "all shards are ready"), "/": (200, title), "": (200, title)}) as url:
        found = services.qdrant(url)
        assert found.status is Status.OK and "1.18.1" in found.what
    with answering({"/readyz": (503, ""), "/": (200, title)}) as url:
        assert "status 503" in services.qdrant(url).what
    for wrong in (NOWHERE, "file:///etc/passwd", "nonsense"):
        assert services.qdrant(wrong).status is Status.FAILED


def test_a_database_that_is_a_file_is_good_enough_for_one_process(tmp_path: Path) -> None:
    (found,) = services.look(document(tmp_path, []), set(), set())
    assert (found.check, found.status) == ("database", Status.WARNING)


def test_a_database_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame")
    store = {
        "url": f"postgresql+asyncpg://tidegate@127.0.0.1:{free_port()}/llm",
        "password_file": str(tmp_path / "password"),
    }
    (found,) = services.look(Document.model_validate({"settings": {"store": store}}), set(), set())
    assert found.status is Status.FAILED and "127.0.0.1" in found.what and "sesame" not in repr(found)
    store["password_file"] = str(tmp_path / "none")
    (found,) = services.look(Document.model_validate({"settings": {"store": store}}), set(), set())
    assert found.status is Status.FAILED and "none" in found.what


@pytest.mark.services
def test_the_database_is_seen_as_it_is() -> None:
    async def change(url: str, words: str) -> None:
        database = Database(StoreSettings(url=url))
        if words == "migrate":
            await database.migrate()
        else:
            async with database.transaction() as connection:
                await connection.execute(text(words))
        await database.close()

    def seen(url: str) -> Finding:
        (found,) = services.look(Document.model_validate({"settings": {"store": {"url": url}}}), set(), set())
        return found

    steps = [
        ("SELECT 1", Status.OK, "is empty"),
        ("migrate", Status.OK, "has this version's schema"),
        ("UPDATE alembic_version SET version_num = '0001'", Status.OK, "will be brought to this version's schema"),
        ("UPDATE alembic_version SET version_num = '9999'", Status.FAILED, "was used by a newer version"),
    ]
    with asyncio.Runner() as runner:
        held = postgres_database()
        url = runner.run(held.__aenter__())
        reader = f"reader_{url.rpartition('_')[2]}"
        try:
            for words, status, phrase in steps:
                runner.run(change(url, words))
                found = seen(url)
                assert found.status is status and phrase in found.what, found
            runner.run(change(url, f"CREATE ROLE {reader} LOGIN"))
            runner.run(change(url, f"GRANT SELECT ON alembic_version TO {reader}"))
            found = seen(url.replace("//postgres@", f"//{reader}@"))
            assert found.status is Status.FAILED and "no tables can be made" in found.what, found
        finally:
            runner.run(change(url, f"DROP OWNED BY {reader}"))
            runner.run(change(url, f"DROP ROLE {reader}"))
            runner.run(held.__aexit__(None, None, None))


@pytest.mark.services
def test_the_store_of_limits_is_asked_whether_it_takes_what_is_counted(tmp_path: Path) -> None:
    def seen(store: OwnRedis, **settings: Any) -> Finding:
        limits = {"store": "redis", "redis": {"url": store.url, **settings}}
        found = services.look(document(tmp_path, [], limits=limits), set(), set())
        return next(each for each in found if each.check == "limit-store")

    (tmp_path / "password").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("guessed")
    password, wrong = ({"password_file": str(tmp_path / name)} for name in ("password", "wrong"))
    (tmp_path / "replica").mkdir()
    with own_redis(tmp_path, requirepass="open sesame") as store:
        assert seen(store, **password).status is Status.OK
        for settings, said in (({}, "Authentication required"), (wrong, "invalid username-password pair")):
            found = seen(store, **settings)
            assert found.status is Status.FAILED and said in found.what and "password" in found.remedy, found
        assert "No such file" in seen(store, password_file=str(tmp_path / "none")).what
        primary, login = f"127.0.0.1|{store.port}", {"masterauth": "open sesame"}
        with own_redis(tmp_path / "replica", replicaof=primary, **login) as replica:
            found = seen(replica)
            assert found.status is Status.FAILED and "read only replica" in found.what and "server" in found.remedy
    assert seen(store).status is Status.FAILED and "Connect" in seen(store).what
    with own_redis(tmp_path, maxmemory_policy="allkeys-lru") as store:
        found = seen(store)
        assert found.status is Status.WARNING and "allkeys-lru" in found.what
    with own_redis(tmp_path, user="default|on|nopass|~{tidegate}:*|+eval|+set") as store:
        assert seen(store).status is Status.OK, "who may not see the rest is not told"
        found = seen(store, prefix="other")
        assert found.status is Status.FAILED and "rights of the user" in found.remedy


def test_the_command_looks_at_what_a_configuration_points_to(tmp_path: Path) -> None:
    config = tmp_path / "tidegate.yaml"
    models = [{"name": "chat", "replicas": [{"url": NOWHERE}]}]
    store = {"url": f"sqlite+aiosqlite:///{tmp_path}/test.db"}
    config.write_text(yaml.safe_dump({"settings": {"store": store}, "resources": {"models": models}}))
    done = CliRunner().invoke(app, ["preflight", "--config", str(config), "--qdrant", NOWHERE, "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [(each["check"], each["status"]) for each in said["findings"]] == [
        ("database", "warning"),
        ("model-servers", "failed"),
        ("qdrant", "failed"),
    ]
