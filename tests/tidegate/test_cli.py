"""The command line: what it says, and what it says when something is wrong."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tidegate.local.permissions import is_shared

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


def modes(folder: Path) -> dict[str, int]:
    """The permissions of everything in the state folder."""
    state = folder / ".tidegate"
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}


def only_for_the_owner(folder: Path) -> list[str]:
    """What others could read, to be empty."""
    return [name for name, mode in modes(folder).items() if mode & 0o077]


def test_what_is_kept_is_for_its_owner_only(folder: Path) -> None:
    for command in ("init", "apply"):
        done = tidegate(folder, command)
        assert done.returncode == 0 and "now for" not in done.stderr and only_for_the_owner(folder) == []
    assert {".tidegate", ".tidegate/tidegate.db", ".tidegate/secrets"} <= modes(folder).keys()
    with sqlite3.connect(folder / ".tidegate" / "tidegate.db") as connection:
        connection.execute("create table written (x)")
        connection.commit()
        assert only_for_the_owner(folder) == []
    connection.close()


@pytest.mark.parametrize("command", ["init", "apply", "serve"])
def test_an_installation_that_others_can_read_is_closed(folder: Path, command: str) -> None:
    for first in ("init", "apply"):
        tidegate(folder, first)
    state = folder / ".tidegate"
    for below in ("journal", "knowledge/acme", "run", "logs"):
        (state / below).mkdir(parents=True)
        (state / below / "file").write_text("x")
    (state / "secrets" / "link").symlink_to(folder / "tidegate.yaml")
    outside = stat.S_IMODE((folder / "tidegate.yaml").stat().st_mode)
    for path in (state, *state.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    warned = tidegate(folder, "check")
    assert warned.returncode == 0 and "other users of this machine can read" in warned.stderr
    assert f"{state}/tidegate.db" in warned.stderr and f"{state}/secrets/key_pepper" in warned.stderr
    (state / "secrets" / "key_pepper").unlink()  # so that `serve` ends
    closed = tidegate(folder, command)
    assert f"now for this user only: {state.relative_to(folder)}" in closed.stderr
    left = [name for name in only_for_the_owner(folder) if not name.endswith("link")]
    assert left == [] and stat.S_IMODE((folder / "tidegate.yaml").stat().st_mode) == outside
    assert "other users" not in tidegate(folder, "check").stderr
    assert "now for" not in tidegate(folder, "apply").stderr


def test_what_stands_in_a_closed_folder_needs_no_warning(folder: Path) -> None:
    for first in ("init", "apply"):
        tidegate(folder, first)
    (folder / ".tidegate" / "tidegate.db").chmod(0o644)
    assert tidegate(folder, "check").stderr == ""
    (folder / ".tidegate").chmod(0o711)
    assert "tidegate.db" in tidegate(folder, "check").stderr


@pytest.mark.parametrize(
    ("file_group", "user", "group", "shared"),
    [(0, 0, 0, False), (1000, 1000, 1000, False), (0, 1000650000, 0, True), (2000, 1000, 1000, True)],
    ids=["root", "a user", "OpenShift's arbitrary user", "a volume's fsGroup"],
)
def test_a_group_that_shares_a_volume_keeps_its_access(file_group: int, user: int, group: int, shared: bool) -> None:
    """Not by the command line, which would have to run as other users."""
    assert is_shared(file_group, user, group) is shared


def test_times_are_shown_as_times(folder: Path) -> None:
    for first in ("init", "apply"):
        tidegate(folder, first)
    owner = ("--organisation", "acme", "--project", "demo")
    made = tidegate(folder, "keys", "create", *owner, "--name", "[red]ci[/]", "--days", "1")
    tidegate(folder, "keys", "revoke", made.stdout.split("-")[1], *owner)
    tidegate(folder, "keys", "create", *owner)
    listed = tidegate(folder, "keys", "list").stdout
    time = r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ"
    assert len(re.findall(time, listed)) == 4, "created twice, expires once, revoked once"
    assert "[red]ci[/]" in listed and not re.search(r"\d{9}", listed)
