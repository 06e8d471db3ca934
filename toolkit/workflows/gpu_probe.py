"""What the GPU of this host is, and what TensorRT-RTX can do with it.

``python -m fptk.workflows.gpu_probe FILE SECONDS`` writes it as JSON.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fptk.core.files import write_json

PACKAGES = (
    "torch",
    "triton",
    "onnx",
    "onnxruntime",
    "accelerate",
    "numpy",
    "pydantic",
    "cuda-bindings",
    "tensorrt-rtx",
)
"""Packages whose versions belong beside every figure."""


def host_facts() -> dict[str, Any]:
    """Processor, Python and versions of the packages that are installed."""
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def gpu_facts() -> dict[str, Any]:
    """The first GPU as PyTorch and ``nvidia-smi`` see it; a reason where there is none. Never raises."""
    facts: dict[str, Any] = {}
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        facts["nvidia-smi"] = (done.stdout or done.stderr).strip()
    try:
        import torch

        if not torch.cuda.is_available():
            return {**facts, "gpu": "none that PyTorch can use"}
        properties = torch.cuda.get_device_properties(0)
        return {
            **facts,
            "gpu": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    except Exception as error:  # a broken driver shows itself in many ways, and each is a finding
        return {**facts, "gpu": f"none: {type(error).__name__}: {error}"}


def tensorrt_facts(limit_s: float) -> dict[str, Any]:
    """What became of a tiny TensorRT-RTX engine on this GPU; a reason where that cannot be tried. Never raises."""
    try:
        from fptk.export.tensorrt.probe import probe

        return asdict(probe(limit_s))
    except Exception as error:  # as above
        return {"reason": f"{type(error).__name__}: {error}"}


def main(arguments: list[str]) -> int:
    """Write the findings to the file that is named; the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m fptk.workflows.gpu_probe FILE SECONDS\n")
        return 2
    found = {"host": host_facts(), "gpu": gpu_facts()}
    write_json(Path(arguments[0]), found)
    write_json(Path(arguments[0]), {**found, "tensorrt-rtx": tensorrt_facts(float(arguments[1]))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
