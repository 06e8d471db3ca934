"""What this host is: written into every bundle and every benchmark, since no figure means anything without it."""

from __future__ import annotations

import os
import platform
from typing import Any

from fptk import __version__
from fptk.calibration.isa import cpu_isa_flags, cpu_model
from fptk.calibration.report import tool_versions as installed_versions

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


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tool_versions() -> dict[str, str]:
    """Version of fptk and of each installed package of :data:`TOOLS`."""
    return {"fptk": __version__, **installed_versions(*TOOLS)}
