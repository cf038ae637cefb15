"""`tidegate.yaml`: what is wrong is said with its line and the nearest valid name."""

from pathlib import Path

import pytest

from tidegate.config.load import load, redact_url, redacted
from tidegate.errors import ConfigError
from tidegate.store.database import Database

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "tidegate.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["tidegate.yaml", "deploy/tidegate.production.yaml"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    load(ROOT / name, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settings:\n  gateway:\n    prot: 1\n", ":3: settings.gateway.prot: unknown key; did you mean 'port'?"),
        ("setings: {}\n", ":1: setings: unknown key; did you mean 'settings'?"),
        ("settings:\n  gateway:\n    port: high\n", ":3: settings.gateway.port: Input should be a valid integer"),
        (
            "resources:\n  models:\n    - name: m\n      replicas:\n        - url: nowhere\n",
            ":5: resources.models.0.replicas.0.url",
        ),
        ("settings:\n  gateway:\n    port: 1\n    port: 2\n", ":4: key 'port' is given twice"),
        ("settings: [\n", "not YAML"),
        (
            "resources: {models: [{name: m, replicas: [{url: 'http://a:1', audience: knowledge, discovery: dns}]}]}\n",
            "a replica with an audience is one service: it has no discovery",
        ),
        ("- a\n", "expected the keys `settings` and `resources`"),
        (
            "resources:\n  organisations: [{name: a, projects: [{name: p}]}]\n",
            "names policy 'default', which does not exist",
        ),
        ("resources:\n  policies: [{name: p, allow_request_fields: [modle]}]\n", "['modle'] are not guarded"),
        ("resources:\n  policies: [{name: p}, {name: p}]\n", "share a name: ['p']"),
        ("settings:\n  gateway:\n    workers: 33\n", "settings.gateway.workers"),
    ],
)
def test_a_mistake_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), {})
    assert said in caught.value.message


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, "settings:\n  gateway:\n    prot: 1\n  stroe: {}\n"), {})
    assert len(caught.value.message.splitlines()) == 2


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "no.yaml", {})


def test_the_environment_overrides_one_value(tmp_path: Path) -> None:
    path = write(tmp_path, "settings:\n  gateway:\n    port: 1\n")
    settings = load(
        path, {"TIDEGATE_GATEWAY__PORT": "2", "TIDEGATE_STORE__URL": "sqlite+aiosqlite:///x"}
    ).document.settings
    assert (settings.gateway.port, settings.store.url) == (2, "sqlite+aiosqlite:///x")


def test_a_wrong_name_in_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'port'"):
        load(write(tmp_path, ""), {"TIDEGATE_GATEWAY__PROT": "2"})


def test_passwords_are_never_printed(tmp_path: Path) -> None:
    url = "postgresql+asyncpg://tide:hunter2@db:5432/tidegate"
    document = load(write(tmp_path, f"settings:\n  store:\n    url: {url}\n"), {}).document
    assert "hunter2" not in str(redacted(document))
    assert redact_url(url) == "postgresql+asyncpg://tide:***@db:5432/tidegate"
    assert "hunter2" not in Database(document.settings.store).shown_url
