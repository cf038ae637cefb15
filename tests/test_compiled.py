"""The compiled request path: which modules it may hold, and that what is tested as compiled is compiled."""

import ast
import filecmp
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand import COMPILED, ROOT

WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
PACKAGES = WHEEL["packages"]
MODULES = sorted(path for pattern in WHEEL["hooks"]["custom"]["modules"] for path in ROOT.glob(pattern))
_PAUSES = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)


def below(nodes: list[Any]) -> Iterator[ast.AST]:
    """`nodes` and what is in them, but not what functions defined there do."""
    for node in nodes:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from below(list(ast.iter_child_nodes(node)))


def pauses_while_handling(source: str) -> list[int]:
    """Lines where a function may pause inside `except` or `finally`."""
    tries = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Try | ast.TryStar)]
    bodies = [body for node in tries for body in (node.finalbody, *(handler.body for handler in node.handlers))]
    return sorted(node.lineno for body in bodies for node in below(body) if isinstance(node, _PAUSES))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_compiled_modules_pause_nowhere_while_an_exception_is_handled(path: Path) -> None:
    """mypyc would leave the exception to whatever runs meanwhile, and an `await` in `finally` raises another request's."""
    assert pauses_while_handling(path.read_text()) == []


def test_a_pause_while_an_exception_is_handled_is_noticed() -> None:
    source = "async def f():\n try:\n  await a()\n except E:\n  await b()\n finally:\n  if c:\n   await d()\n"
    assert pauses_while_handling(source) == [5, 8]


@pytest.mark.services
def test_this_tier_runs_what_is_compiled_from_these_sources(own_gateway: Any, request: pytest.FixtureRequest) -> None:
    assert request.config.getoption("--compiled"), "run this tier by `make test-services`"
    maps = Path(f"/proc/{own_gateway().process.popen.pid}/maps").read_text()
    assert f"{COMPILED}/tidegate__mypyc." in maps
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
    code = f"import importlib; print(*[importlib.import_module(name).__file__ for name in {names}], sep='\\n')"
    files = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [file for file in files if not file.startswith(str(COMPILED)) or not file.endswith(".so")] == []
    assert len(files) == len(MODULES)
    sources = [path.relative_to(ROOT) for room in PACKAGES for path in (ROOT / room).rglob("*.py")]
    assert [str(path) for path in sources if not filecmp.cmp(ROOT / path, COMPILED / path, shallow=False)] == []
