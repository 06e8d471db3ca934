"""A listener for trainings that keeps what it hears and may interfere after a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fptk.core.progress import Listener, Update


class Recording(Listener):
    """Keeps the lines that are said, the texts of the training's counter, and the number of steps.

    Args:
        step: step of this call, from 1, after which something is done.
        action: what.
    """

    def __init__(self, step: int = 0, action: Callable[[], Any] = lambda: None) -> None:
        self.lines: list[str] = []
        self.texts: list[str] = []
        self.images: list[int] = []
        """What the training's counter stood at, without repetitions."""
        self._step, self._action = step, action

    @property
    def steps(self) -> int:
        """Steps of the last training that was heard."""
        return max(0, len(self.images) - 1)

    def say(self, text: str, *, heading: bool = False) -> None:
        self.lines.append(text)

    @contextmanager
    def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
        def update(done: int, text: str | None = None) -> None:
            assert done <= total
            if what != "training":
                return
            self.texts += [text] if text else []
            if not self.images or done != self.images[-1]:
                self.images.append(done)
                if self.steps and self.steps == self._step:
                    self._action()

        yield update
