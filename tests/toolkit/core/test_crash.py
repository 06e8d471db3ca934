"""What killed a process, in words."""

from __future__ import annotations

import pytest

from fptk.core.crash import crash_of


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, None),
        (3, None),
        (-11, "SIGSEGV"),
        (-9, "SIGKILL (most likely out of memory)"),
        (-40, "signal 40"),
        (0xC0000005, "status 0xc0000005"),
    ],
)
def test_a_process_that_was_killed_is_told_from_one_that_ended(code: int, said: str | None) -> None:
    assert crash_of(code) == said
