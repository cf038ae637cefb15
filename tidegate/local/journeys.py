"""Walks the journeys: readable scripts that use the platform through public clients and assert what they see."""

import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from tidegate.local.stack import Running

_TIMEOUT_S = 300


def walk(folder: Path, running: Running, console: Console) -> list[str]:
    """Runs every `*.py` in `folder` in order of name; the names of those that failed."""
    failed = []
    for script in sorted(folder.glob("[0-9]*.py")):
        console.rule(f"Journey {script.stem}", align="left")
        began = time.monotonic()
        env = {**os.environ, **running.environ()}
        try:
            code = subprocess.run([sys.executable, str(script)], env=env, timeout=_TIMEOUT_S, check=False).returncode  # noqa: S603
        except subprocess.TimeoutExpired:
            console.print(f"  no end after {_TIMEOUT_S} s", highlight=False)
            code = -1
        took = f"{time.monotonic() - began:.1f} s"
        if code:
            failed.append(script.stem)
            console.print(f"  [red]✗ journey {script.stem} failed[/] (exit {code}, {took})", highlight=False)
        else:
            console.print(f"  [green]✓ journey {script.stem}[/] ({took})", highlight=False)
    return failed
