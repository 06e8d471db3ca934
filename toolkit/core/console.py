"""What the commands print with: logs and progress go to stderr, results to stdout.

Most of what is printed holds a name that the user chose. So text is printed as it is: these consoles know no markup and
no emoji codes, and show control characters instead of obeying them. What is to be bold is said with ``style=``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.measure import Measurement
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
from rich.table import Table
from rich.text import Text

from fptk.core.errors import one_line
from fptk.core.progress import Listener, Update

WIDEST = 1000
"""Columns of the widest table that is not cut."""


class PlainConsole(Console):
    """A console that prints strings as they are, each on one line, with control characters made visible.

    The lines of a text are printed with :meth:`print_lines`. A ``rich.text.Text`` is printed as its maker styled it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, but that a string stays on one line, whatever names stand in it, and that no figure of a table is
        cut: on a narrow terminal the table is wider than its lines."""
        before = self._width
        needed = [self._width_of(each) for each in objects if isinstance(each, Table)]
        if max(needed, default=0) > self.width:
            self._width = max(needed)  # rich takes no width beyond the console's own
        try:
            super().print(*(one_line(each) if isinstance(each, str) else each for each in objects), **options)
        finally:
            self._width = before

    def _width_of(self, table: Table) -> int:
        """Columns below which rich would cut the table: its whole width where no column may wrap."""
        size = Measurement.get(self, self.options.update(width=WIDEST), table)
        return size.maximum if all(column.no_wrap for column in table.columns) else size.minimum

    def print_lines(self, text: str, **options: Any) -> None:
        """Print a text of several lines."""
        for line in text.splitlines():
            self.print(line, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The strings of tables, titles and progress bars; their line breaks are kept."""
        return super().render_str("\n".join(map(one_line, text.split("\n"))), **options)


log = PlainConsole(stderr=True)
"""Console for messages and progress (stderr)."""

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, which have no width of their own."""

out = PlainConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH)
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
        TextColumn("{task.description}", markup=False),
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


class ConsoleListener(Listener):
    """Shows lines of text, and a progress bar for what is counted, on stderr."""

    def say(self, text: str, *, heading: bool = False) -> None:
        log.print(text, style="bold" if heading else None, soft_wrap=True)

    @contextmanager
    def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
        with progress_bar(animated=not still) as progress:
            task = progress.add_task(one_line(what), total=total)

            def update(done: int, text: str | None = None) -> None:
                shown = None if text is None else one_line(text)
                progress.update(task, completed=done, refresh=still, description=shown)

            yield update


TERMINAL = ConsoleListener()
"""The listener of every command."""
