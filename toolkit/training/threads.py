"""How torch's CPU threads wait for each other; to be settled before torch is loaded."""

from __future__ import annotations

import os
import sys


def wait_without_spinning() -> bool:
    """Let idle OpenMP threads sleep instead of spinning, unless the user has chosen otherwise.

    A step has hundreds of parallel regions. Spinning threads save microseconds at the end of each on an idle machine;
    where the cores are shared, each waits for a thread that has lost its core and burns its own meanwhile: measured on
    two busy cores, 518 ms of processor time an image instead of 139 or less.

    Returns:
        False where torch was loaded before, which has read the setting already.
    """
    if "torch" in sys.modules:
        return False
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return True
