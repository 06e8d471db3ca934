"""What killed a process, from its exit code."""

from __future__ import annotations

import signal

_FIRST_NT_ERROR = 0xC0000000
"""Windows ends a process that crashes with a status from here on."""


def crash_of(code: int) -> str | None:
    """What killed a process, in words; ``None`` if it ended by itself.

    Args:
        code: exit code as :mod:`subprocess` gives it: minus the signal on POSIX, the status on Windows.
    """
    if code >= _FIRST_NT_ERROR:
        return f"status {code:#x}"
    if code >= 0:
        return None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (most likely out of memory)" if name == "SIGKILL" else name
