"""The command line: what it says, and what it says when something is wrong."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def tidegate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidegate.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tidegate.yaml").write_text((ROOT / "tidegate.yaml").read_text())
    return tmp_path


def test_from_nothing_to_a_key(folder: Path) -> None:
    assert "made .tidegate/secrets/key_pepper" in tidegate(folder, "init").stdout
    assert "is there already" in tidegate(folder, "init").stdout
    pepper = folder / ".tidegate" / "secrets" / "key_pepper"
    assert stat.S_IMODE(pepper.stat().st_mode) == 0o600 and len(pepper.read_text()) == 64
    assert "added model 'smollm2'" in tidegate(folder, "apply").stdout
    assert "nothing to change" in tidegate(folder, "apply").stdout
    made = tidegate(
        folder, "keys", "create", "--organisation", "acme", "--project", "demo", "--name", "ci", "--days", "1"
    )
    token = made.stdout.strip()
    assert token.startswith("tg-") and "not shown again" in made.stderr
    listed = tidegate(folder, "keys", "list").stdout
    assert token.split("-")[1] in listed and token not in listed and "ci" in listed
    everything = b"".join(path.read_bytes() for path in (folder / ".tidegate").rglob("*") if path.is_file())
    assert token.encode() not in everything
    revoke = ("keys", "revoke", token.split("-")[1], "--organisation", "acme", "--project")
    assert tidegate(folder, *revoke, "other").returncode == 2
    assert "revoked" in tidegate(folder, *revoke, "demo").stdout
    assert tidegate(folder, "usage", "--json").stdout == ""


def test_check_prints_the_effective_settings_without_secrets(folder: Path) -> None:
    done = tidegate(folder, "check")
    assert done.returncode == 0 and "tidegate.yaml is valid" in done.stdout
    printed = yaml.safe_load(done.stdout.rpartition("tidegate.yaml is valid")[0])
    assert printed["settings"]["gateway"]["port"] == 8080 and printed["settings"]["relay"]["connect_timeout_s"] == 2.0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("type: pan", "type: pam", "unknown guardrail type 'pam'; did you mean 'pan'?"),
        ("on_input: refuse", "on_inptu: refuse", "on_inptu: unknown key; did you mean 'on_input'?"),
        ("type: otlp", "type: otpl", "unknown telemetry_sink type 'otpl'; did you mean 'otlp'?"),
        ("sample_ratio: 1.0", "sample_ration: 1.0", "unknown key; did you mean 'sample_ratio'?"),
    ],
)
def test_check_names_line_and_nearest_name(folder: Path, old: str, new: str, said: str) -> None:
    path = folder / "tidegate.yaml"
    text = path.read_text()
    path.write_text(text.replace(old, new))
    line = next(number for number, line in enumerate(path.read_text().splitlines(), 1) if new in line)
    done = tidegate(folder, "check")
    assert done.returncode == 2 and said in done.stderr
    near = {f"tidegate.yaml:{line}:", f"tidegate.yaml:{line - 1}:"}  # an option is told at its plugin's line
    assert any(place in done.stderr for place in near), done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_of_a_gateway_needs_nothing_of_what_reads_documents(folder: Path) -> None:
    """The gateway's image has no document parsers' packages, and applies the configuration all the same."""
    without = "import sys; sys.modules |= dict.fromkeys(('bs4', 'pypdf', 'docx', 'lxml', 'markdown_it')); "
    argv = [sys.executable, "-c", without + "from tidegate.cli import main; main()"]
    done = subprocess.run([*argv, "check"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "is valid" in done.stdout, done.stderr
    env = os.environ | {"TIDEGATE_KNOWLEDGE__PARSERS": "[{type: htlm}]"}
    done = subprocess.run([*argv, "check"], cwd=folder, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 2 and "htlm" in done.stderr, "what does not exist anywhere is still said"


def test_commands_before_apply_say_what_to_do(folder: Path) -> None:
    done = tidegate(folder, "usage")
    assert done.returncode == 2 and "run `tidegate apply`" in done.stderr
    done = tidegate(folder, "serve")
    assert done.returncode == 1 and "`tidegate init` makes one" in done.stderr
    done = tidegate(folder, "trace", "0" * 32)
    assert done.returncode == 2 and "start it with `tidegate up`" in done.stderr


def test_a_key_for_a_project_that_does_not_exist_is_refused(folder: Path) -> None:
    tidegate(folder, "init")
    tidegate(folder, "apply")
    done = tidegate(folder, "keys", "create", "--organisation", "acme", "--project", "nope")
    assert done.returncode == 2 and "there is no project 'nope'" in done.stderr


def test_the_schema_is_json(folder: Path) -> None:
    assert json.loads(tidegate(folder, "schema").stdout)["title"] == "Document"


def test_up_says_what_it_needs(folder: Path) -> None:
    env = {**os.environ, "TIDEGATE_GATEWAY__PORT": "1"}
    (folder / "tidegate.yaml").write_text("settings: {}\n")
    argv = [sys.executable, "-m", "tidegate.cli", "up", "--once"]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "needs a model under resources.models" in done.stderr
