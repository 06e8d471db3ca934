"""What a training asks of the machine under it: its memory, its allocator, and how threads wait; imports no torch."""

from __future__ import annotations

import ctypes
import os
import sys

# <malloc.h>; the values are part of glibc's ABI.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

_TOP_PAD_BYTES = 256 << 20


def machine_memory() -> int:
    """Bytes of this machine's memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def wait_without_spinning() -> bool:
    """Let idle OpenMP threads sleep instead of spinning, unless the user has chosen otherwise.

    A step has hundreds of parallel regions. Spinning threads save microseconds at the end of each on an idle machine.
    Where the cores are shared, each waits for a thread that has lost its core and burns its own meanwhile: measured on
    two busy cores, 518 ms of processor time an image instead of 139 or less.

    Returns:
        False where torch was loaded before: it has read the setting already.
    """
    if "torch" in sys.modules:
        return False
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return True


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, so that a training step does not pay for page faults again and again.

    glibc serves large blocks by ``mmap`` and gives them back on ``free``. Every activation of every step is then
    touched for the first time anew, and on a CPU the kernel's page faults cost more than the arithmetic. This tells
    glibc to serve everything from the heap and never to trim it. Call it once, before large allocations.

    One arena only: the heaps of further arenas are limited to 64 MB, and larger blocks would be mapped again.

    Returns:
        True where all settings were taken; False on another C library or system, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
        os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, AttributeError, ValueError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES), (_M_ARENA_MAX, 1))
    return all([mallopt(name, value) == 1 for name, value in settings])  # noqa: C419 - set all, even after a refusal
