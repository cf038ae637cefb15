"""Compiles the request path with mypyc where a wheel is built with `HATCH_BUILD_HOOKS_ENABLE=1`; see `make compiled`.

The same sources are in the wheel beside their compiled form, for tracebacks and for reading. Without the variable the wheel is
pure Python, and an editable install always is. See docs/adr/0015-mypyc.md.
"""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledModules(BuildHookInterface[Any]):
    """`modules` in pyproject.toml's section of this hook are glob patterns below the project's folder."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and adds what came out.

        Raises:
            SystemExit: a pattern finds nothing, or mypyc warns that compiled code would behave otherwise.
        """
        if version == "editable":
            return
        self.work = Path(tempfile.mkdtemp(prefix="tidegate-compiled-"))
        for compiled in compile_modules(Path(self.root), self.config["modules"], self.work):
            build_data["force_include"][str(compiled)] = str(compiled.relative_to(self.work / "lib"))
        build_data |= {"pure_python": False, "infer_tag": True}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Takes away what is in the wheel by now."""
        if version != "editable":
            shutil.rmtree(self.work)


def compile_modules(root: Path, patterns: list[str], work: Path) -> list[Path]:
    """The shared objects, laid out below `work`/lib as in a wheel."""
    from mypyc.build import mypycify  # needed only where something is compiled
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    found = {pattern: sorted(root.glob(pattern)) for pattern in patterns}
    if nothing := [pattern for pattern, paths in found.items() if not paths]:
        raise SystemExit(f"pyproject.toml names modules to compile that are not there: {', '.join(nothing)}")
    sources = [str(path.relative_to(root)) for paths in found.values() for path in paths]
    said = io.StringIO()
    with contextlib.chdir(root), contextlib.redirect_stdout(said):
        extensions = mypycify(
            ["--cache-dir", str(work / "mypy"), *sources],
            opt_level="3",
            debug_level="0",
            target_dir=str(work / "c"),
            group_name="tidegate",
        )
    if said.getvalue():
        raise SystemExit(f"mypyc would compile something to other than it is:\n{said.getvalue()}")
    command = build_ext(Distribution({"name": "tidegate", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(work / "lib"), str(work / "o")
    command.finalize_options()
    command.run()
    return sorted((work / "lib").rglob("*.so"))
