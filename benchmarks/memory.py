"""Peak memory of one inference. Only in a process that has measured nothing else does a peak mean anything."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fptk.core.crash import crash_of
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.host import process_memory
from fptk.core.session import Session

MEMORY = "memory"
"""Name of the task in :mod:`fptk.benchmarks.own_process`."""


def peak_memory(command: Sequence[str]) -> int | None:
    """Bytes that the first inference of a loaded engine adds to its process at their peak: its activations.

    Neither the engine's libraries nor its weights are counted.

    Args:
        command: starts a process that loads the engine and does what its next argument says; see
            :mod:`fptk.benchmarks.own_process`.

    Returns:
        ``None`` where the operating system does not tell (not Linux).

    Raises:
        InputError: the engine cannot be loaded.
        TargetUnavailableError: this host cannot run the engine, or the engine crashed the process.
        RuntimeError: the process failed (a bug).
    """
    if not Path("/proc/self/status").is_file():
        return None
    done = subprocess.run([*command, json.dumps({"measure": MEMORY})], capture_output=True, text=True)
    crash = crash_of(done.returncode)
    if crash:
        raise TargetUnavailableError(f"the engine crashed its runtime here with {crash}")
    for kind in (InputError, TargetUnavailableError):
        if done.returncode == kind.exit_code:
            raise kind(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"the memory measurement failed: {done.stderr.strip()}")
    peak: int = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    return peak


def measure_memory(session: Session) -> dict[str, Any]:
    """Peak resident bytes during the first inference of this process, minus those just before it.

    An engine may run in a child process: those of the children, each at its own peak, are added.
    """
    images = np.zeros((1, *session.spec.size, 3), np.uint8)
    processes = [os.getpid(), *_children()]
    for process in processes:
        # "5" resets the high-water mark of resident memory (proc(5)): compiling the graph must not be counted.
        Path(f"/proc/{process}/clear_refs").write_text("5")
    before = [process_memory("VmRSS", process) or 0 for process in processes]
    session(images)
    after = [process_memory("VmHWM", process) or 0 for process in processes]
    return {"peak_bytes": sum(after) - sum(before)}


def _children() -> list[int]:
    """The child processes of this one; none where the kernel does not list them (CONFIG_PROC_CHILDREN)."""
    return [int(number) for path in Path("/proc/self/task").glob("*/children") for number in path.read_text().split()]
