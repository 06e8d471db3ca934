"""Peak memory of one inference, measured in a process of its own.

Run as ``python -m fptk.benchmarks.memory`` with one JSON argument; the answer is one JSON line on stdout. Only in a
process that has measured nothing else does a peak mean anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fptk.core.host import process_memory
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets.registry import get_target


def peak_memory(
    target: str, engine: Path, spec: PreprocessSpec, threads: int, precision_hint: str | None = None
) -> int | None:
    """Bytes that the first inference of a loaded engine adds to its process at their peak: its activations.

    Neither the engine's libraries nor its weights are counted. ``None`` where the operating system does not tell (not
    Linux).
    """
    if not Path("/proc/self/status").is_file():
        return None
    request = {
        "target": target,
        "engine": str(engine),
        "spec": spec.model_dump(mode="json"),
        "options": {"threads": threads, "precision_hint": precision_hint},
    }
    command = [sys.executable, "-m", "fptk.benchmarks.memory", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory measurement of {engine} failed: {done.stderr.strip()}")
    peak: int = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    return peak


def _measure(request: dict[str, Any]) -> int:
    """Peak resident bytes during the first inference, minus those just before it."""
    spec = PreprocessSpec.model_validate(request["spec"])
    images = np.zeros((1, *spec.size, 3), np.uint8)
    with get_target(request["target"]).load(Path(request["engine"]), spec, **request["options"]) as session:
        # "5" resets the high-water mark of resident memory (proc(5)): compiling the graph must not be counted.
        Path("/proc/self/clear_refs").write_text("5")
        before = process_memory("VmRSS") or 0
        session(images)
        return (process_memory("VmHWM") or 0) - before


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"peak_bytes": _measure(json.loads(sys.argv[1]))}) + "\n")
