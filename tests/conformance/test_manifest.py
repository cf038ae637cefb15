"""The manifest of requirements: every test it names exists, and every test behind the public door is named or exempt."""

import ast
from pathlib import Path

from tests.conformance.admission import ADMISSION
from tests.conformance.processes import PROCESSES
from tests.conformance.relay import RELAY
from tests.conformance.requirements import REQUIREMENTS
from tests.conformance.rooms import ROOMS

ROOT = Path(__file__).parents[2]
EVERY = REQUIREMENTS + ROOMS + RELAY + PROCESSES + ADMISSION
NAMED = {test for requirement in EVERY for test in requirement.tests}
DOORS = (
    "tests/agents",
    "tests/gateway/api",
    "tests/gateway/mcp",
    "tests/gateway/test_fidelity.py",
    "tests/gateway/test_guardrail.py",
    "tests/gateway/test_hostile.py",
    "tests/gateway/test_presets.py",
    "tests/gateway/test_relay.py",
    "tests/gateway/test_screening.py",
    "tests/gateway/test_upload.py",
    "tests/live",
    "tests/mcp_servers",
    "tests/operations",
    "tests/rag/test_parsing.py",
    "tests/rag/test_service.py",
    "tests/tidegate/local/test_ingest.py",
    "tests/tidegate/test_identity.py",
)


def names_in(place: str) -> set[str]:
    path = ROOT / place
    files = [path] if path.is_file() else sorted(path.rglob("test_*.py"))
    return {
        f"{file.relative_to(ROOT)}::{node.name}"
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_requirement_names_tests_that_exist() -> None:
    existing = names_in("tests")
    assert {test for test in NAMED if test not in existing} == set()
    assert all(requirement.tests and requirement.source and requirement.behaviour for requirement in EVERY)


def test_requirement_ids_are_unique() -> None:
    ids = [requirement.requirement_id for requirement in EVERY]
    assert len(ids) == len(set(ids))


def test_every_test_behind_the_public_door_belongs_to_a_requirement() -> None:
    found = set().union(*(names_in(place) for place in DOORS))
    assert sorted(found - NAMED) == []
