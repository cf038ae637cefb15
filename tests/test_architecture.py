"""The house's rules that no other tool checks: budgets, names, one table of paths, rooms that keep apart."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("tidegate", "guardrails", "gateway", "rag", "agents", "mcp_servers")
PRODUCT = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
EVERY = PRODUCT + sorted(
    path for room in ("tests", "examples", "benchmarks", "deploy") for path in (ROOT / room).rglob("*.py")
)
BANNED_STEMS = re.compile(r"(utils?|helpers?|common|misc|manager|base2|.*_v\d+|.*_new)")


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


@pytest.mark.parametrize("path", EVERY, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    is_test = path.is_relative_to(ROOT / "tests")
    assert len(path.read_text().splitlines()) <= (800 if is_test else 400)
    assert is_test or max(map(length, functions(path)), default=0) <= 60


def test_the_usual_function_is_short() -> None:
    assert statistics.median(length(function) for path in PRODUCT for function in functions(path)) <= 12


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path.name for path in EVERY if BANNED_STEMS.fullmatch(path.stem)] == []


def test_every_folder_of_tests_is_a_package() -> None:
    """Else `tests/gateway` would shadow `gateway`."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_an_import_against_the_contracts_is_noticed(tmp_path: Path) -> None:
    """The contracts can fail: a copy of the tree with one forbidden import is refused."""
    import shutil

    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "guardrails" / "pan.py").open("a") as file:
        file.write("\nimport gateway.app  # noqa\n")
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(
        lint, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    )
    assert done.returncode != 0 and "guardrails.pan -> gateway.app" in done.stdout, done.stdout


HEAVY = (
    "torch",
    "transformers",
    "langchain",
    "langgraph",
    "openai",
    "qdrant_client",
    "qdrant_edge",
    "sentence_transformers",
)
TESTS_ONLY = ("pytest", "hypothesis", "numpy")


def test_the_gateway_imports_nothing_heavy() -> None:
    code = "import sys, gateway.__main__, gateway.app, guardrails.pan; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded & {*HEAVY, *TESTS_ONLY, "rag", "agents", "mcp_servers"} == set()
    assert {"gateway", "guardrails", "uvloop"} <= loaded


def test_the_request_map_names_every_stage_in_order() -> None:
    import gateway.app
    import gateway.pipeline

    told = re.findall(r"^ ?\d+\. `(\w+)`", gateway.app.__doc__ or "", re.MULTILINE)
    source = ast.parse(Path(gateway.pipeline.__file__).read_text())
    run = next(node for node in ast.walk(source) if isinstance(node, ast.AsyncFunctionDef) and node.name == "run")
    calls = sorted((node for node in ast.walk(run) if isinstance(node, ast.Call)), key=lambda node: node.lineno)
    ours = [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    called = [name.attr for name in ours if ast.unparse(name.value) == "self"]
    in_order = sorted({name for name in called if name[0] != "_"} - {"refuse"}, key=[*called].index)
    assert told == in_order


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a developer's machine, and no package registry's host, in anything that is committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    banned = re.compile("/" + "work/|/" + "root/|files\\.python" + "hosted|pypi" + "\\.org|registry\\.npm" + "js")
    texts = {name: (ROOT / name).read_text(errors="replace") for name in listed if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if banned.search(text)] == []
