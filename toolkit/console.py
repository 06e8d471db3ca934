"""What the commands print with: logs and progress go to stderr, results to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

log = Console(stderr=True, highlight=False)
"""Console for messages and progress (stderr)."""

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, which have no width of their own."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
"""Console for results (stdout)."""


class _RateColumn(ProgressColumn):
    """Finished steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-", style="cyan")


def progress_bar(*, animated: bool = True) -> Progress:
    """A bar with count, rate, elapsed and remaining time; silent where stderr is no terminal.

    ``animated=False`` redraws on updates only: no thread of the bar runs beside what is being timed.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=log,
        disable=not log.is_terminal,
        transient=True,
        auto_refresh=animated,
    )


@contextmanager
def counting(description: str, total: int, *, animated: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar for code that reports how many of ``total`` steps are done."""
    with progress_bar(animated=animated) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done, refresh=not animated)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` under a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)
