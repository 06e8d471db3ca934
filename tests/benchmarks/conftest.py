"""A listener that notes what it hears."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fptk.core.progress import Listener, Update


class Heard(Listener):
    """Notes each counter: description, total, whether it keeps still, and the steps."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, int, bool, list[int]]] = []

    @contextmanager
    def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
        steps: list[int] = []
        self.counted.append((what, total, still, steps))
        yield lambda done, text=None: steps.append(done)


@pytest.fixture
def heard() -> Heard:
    """Passed as listener, it knows every counter afterwards."""
    return Heard()
