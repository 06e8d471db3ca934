"""What long work tells whoever waits for it: one protocol for training, calibration, evaluation, export and bench.

Library code takes ``listener: Listener = SILENT`` and prints nothing by itself. The command line passes a
:class:`fptk.core.console.ConsoleListener`, a notebook or a test a subclass of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Update(Protocol):
    """Moves one counter."""

    def __call__(self, done: int, text: str | None = None) -> None:
        """``done`` steps are finished since the work began; ``text`` replaces the counter's description."""


def ignore(done: int, text: str | None = None) -> None:
    """The counter of a listener that shows none."""


class Listener:
    """Hears of work as it goes on. This base class shows nothing; a subclass overrides what it wants to show."""

    def say(self, text: str, *, heading: bool = False) -> None:
        """One line of text, without markup; ``heading`` begins a new part of the work."""

    def counting(self, what: str, total: int, *, still: bool = False) -> AbstractContextManager[Update]:
        """Count the steps of one piece of work.

        Args:
            what: description, a few words.
            total: steps that there will be.
            still: something is being timed meanwhile, so that no thread may run beside it.

        Returns:
            A context that yields the function which moves the counter, and removes the counter at its end.
        """
        return nullcontext(ignore)


SILENT = Listener()
"""Shows nothing; the default everywhere."""


def track(listener: Listener, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and count them.

    Args:
        listener: who is told.
        items: any iterable.
        what: description, a few words.
        total: number of items; may be left out where ``items`` has a length.
    """
    if total is None:
        if not isinstance(items, Sized):
            raise TypeError("track() needs a total for items without a length")
        total = len(items)
    with listener.counting(what, total) as update:
        for done, item in enumerate(items, start=1):
            yield item
            update(done)
