"""What the chart renders is started as it says, confined as restricted-v2 confines it: probes, one chat, SIGTERM."""

import json
from pathlib import Path

import pytest

from tests.deploy.cluster import REDIS_PASSWORD, Cluster, served_well

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]


@pytest.mark.parametrize("persistent", [False, True], ids=["Deployment", "StatefulSet"])
def test_the_gateway_starts_answers_and_stops(persistent: bool, tmp_path: Path) -> None:
    redis = {"url": "redis://redis.example.internal:6379", "existingSecret": "tidegate-redis"} if persistent else {}
    site = Cluster(tmp_path, "small", {"gateway": {"journal": {"persistent": persistent}}, "redis": redis})
    site.plan |= {"redis_password": REDIS_PASSWORD} if persistent else {}
    config = "--config=/etc/tidegate/tidegate.yaml"
    make_key = ["tidegate", "keys", "create", "--organisation=acme", "--project=demo", "--name=test", config]
    chat = {"model": "llama-8b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    asked = {
        "port": "http",
        "path": "/v1/chat/completions",
        "json": chat,
        "headers": {"authorization": "Bearer {word}"},
    }
    site.plan["model_port"] = 8000
    site.then("migrations", to_end=True)
    site.then("gateway", to_end=True, command=make_key)
    site.then("gateway", requests=[asked, {"port": "management", "path": "/metrics"}])
    *before, gateway = site.run()
    assert [step["exit_code"] for step in before] == [0, 0], gateway["log"]
    served_well(gateway)
    (status, body), (_, metrics) = gateway["answers"]
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 2, body
    assert "tidegate_limit_store_away 0.0" in metrics, "with Redis, too"
    assert 'tidegate_requests_total{model="llama-8b",outcome="ok",path="/v1/chat/completions"} 1.0' in metrics


@pytest.mark.parametrize("component", ["knowledge", "agents", "mcp-calendar", "mcp-knowledge"])
def test_every_other_process_starts_and_stops(component: str, tmp_path: Path) -> None:
    site = Cluster(tmp_path, "small", {})
    site.then("migrations", to_end=True)
    site.then(component)
    *before, found = site.run()
    assert [step["exit_code"] for step in before] == [0], found["log"]
    served_well(found)


def test_what_is_written_where_no_volume_is_fails(tmp_path: Path) -> None:
    """The confinement is real: root is read-only, the user is nobody's, there is no way out, and no home."""
    site = Cluster(tmp_path, "small", {})
    del site.plan["database_port"]
    script = (
        "import os, socket; print(os.getuid(), os.getgid(), os.environ.get('HOME'), os.getpid())\n"
        "for path in ('/x', '/etc/tidegate/x', '/opt/x', os.path.dirname(os.__file__) + '/x'):\n"
        "    try: open(path, 'w'); print('wrote', path)\n"
        "    except OSError: pass\n"
        "open('/tmp/x', 'w'); print(open('/proc/self/status').read().split('CapBnd:')[1].split()[0])\n"
        "try: socket.create_connection(('192.0.2.1', 80), 1)\n"
        "except OSError as error: print(error.strerror)"
    )
    site.then("gateway", to_end=True, command=["python", "-c", script])
    (found,) = site.run()
    assert found["log"].splitlines() == ["1000770000 0 None 1", "0000000000000000", "Network is unreachable"]
