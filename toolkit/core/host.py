"""What this host is: written into every bundle and every benchmark, since no figure means anything without it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from fptk.core.cpu import cpu_isa_flags, cpu_model
from fptk.core.version import __version__

TOOLS = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "nncf",
    "tensorrt",
    "tensorrt-rtx",
    "numpy",
    "pillow",
)
"""Packages whose version changes what an engine computes."""


def describe_host() -> dict[str, Any]:
    """CPU model, ISA flags that matter to inference, usable cores, operating system, Python."""
    return {
        "cpu": cpu_model(),
        "isa": sorted(cpu_isa_flags()),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the control groups, which hold a container's CPU quota."""


def usable_cores(cgroups: Path = CGROUPS, membership: str | None = None) -> int:
    """Cores that this process may keep busy: those it may run on, or fewer where a container's CPU quota says so.

    Args:
        cgroups: where the control groups (version 1 or 2) are mounted.
        membership: text of ``/proc/self/cgroup``; None to read it.

    Returns:
        At least 1; a quota of 1.5 cores counts as 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if membership is None:
        membership = _text(Path("/proc/self/cgroup")) or ""
    quotas = [quota for folder in _cgroup_folders(cgroups, membership) if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def _cgroup_folders(root: Path, membership: str) -> Iterator[Path]:
    """The folders of this process's control groups that can limit the CPU, and of all groups above them.

    A line of ``membership`` is ``NUMBER:CONTROLLERS:PATH``; version 2 has no controllers. In a container the path is
    often that of the host, of which only the group mounted at the root is there to see.
    """
    for line in membership.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in (controllers, "cpu", "cpu,cpuacct") if controllers else ("", "unified"):
            yield from (root.joinpath(mount, *parts[:depth]) for depth in range(len(parts), -1, -1))


def _cpu_quota(folder: Path) -> float | None:
    """Cores that a control group may keep busy; None where it sets no limit."""
    text = _text(folder / "cpu.max")  # version 2: "QUOTA PERIOD", or "max PERIOD"
    if text is None:
        text = f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
    try:
        quota, period = (int(number) for number in text.split())
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def tool_versions(*packages: str) -> dict[str, str]:
    """Version of each of these packages that is installed; of fptk and all of :data:`TOOLS` where none is named."""
    found = {}
    for package in packages or ("fptk", *TOOLS):
        try:
            found[package] = __version__ if package == "fptk" else metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def resident_peak() -> int | None:
    """Highest resident memory of this process since it began, bytes; ``None`` where the system does not tell."""
    return process_memory("VmHWM")


def process_memory(field: str, process: int | str = "self") -> int | None:
    """A line of ``/proc/PROCESS/status`` in bytes, e.g. ``VmRSS``; ``None`` where there is no such file or line."""
    for line in (_text(Path(f"/proc/{process}/status")) or "").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
