"""Progress of long work: every step shows what it does and for how long, on a terminal and in a log alike."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_SAY_EVERY_S = 15.0


class Steps:
    """Prints steps to `console`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the first step."""
        return time.monotonic() - self._started

    @contextmanager
    def step(self, title: str) -> Iterator["Ticker"]:
        """Shows `title` with the elapsed time; then a tick or a cross, and how long it took."""
        began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not sys.stdout.isatty()) as progress:
            progress.add_task(title)
            if not sys.stdout.isatty():
                self.console.print(f"  … {title}", highlight=False)
            try:
                yield Ticker(self.console, title, began)
            except BaseException:
                self.console.print(f"  [red]✗[/] {title} ({time.monotonic() - began:.1f} s)", highlight=False)
                raise
        self.console.print(f"  [green]✓[/] {title} ({time.monotonic() - began:.1f} s)", highlight=False)


class Ticker:
    """Says, where there is no terminal, that a long step is still going on."""

    def __init__(self, console: Console, title: str, began: float) -> None:
        self._console = console
        self._title = title
        self._began = self._said = began

    def tick(self) -> None:
        """Call now and then."""
        now = time.monotonic()
        if not sys.stdout.isatty() and now - self._said > _SAY_EVERY_S:
            self._said = now
            self._console.print(f"  … {self._title} ({now - self._began:.0f} s)", highlight=False)


class Bar:
    """A progress bar on a terminal; a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not sys.stdout.isatty())
        self._task = self._progress.add_task("starting", total=None)
        self._console = console
        self._said = time.monotonic()

    def __enter__(self) -> "Bar":
        """Shows it."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves it as it is."""
        self._progress.stop()

    def __call__(self, done: float, total: int, what: str) -> None:
        """`done` of `total`, and what happens now."""
        self._progress.update(self._task, completed=done, total=total, description=what)
        now = time.monotonic()
        if not sys.stdout.isatty() and now - self._said > _SAY_EVERY_S / 3:
            self._said = now
            self._console.print(f"  … {done:.0f} of {total}: {what}", highlight=False, markup=False)
