"""What is measured in a process of its own, and how that process and its parent talk.

The parent has a command line that loads an engine (:func:`fptk.export.engine_process.engine_command` makes it). It adds
one argument: a task, a JSON object whose ``measure`` names it. The process loads its engine, calls :func:`answer`, and
prints the answer as one line of JSON on stdout. Where the engine cannot run it ends with the exit code of that error.
"""

from __future__ import annotations

import json
from pathlib import Path

from fptk.benchmarks.memory import MEMORY, measure_memory
from fptk.benchmarks.processors import LABELS, label_images
from fptk.core.session import Session


def answer(session: Session, task: str) -> str:
    """Carry out a task with the engine of this process.

    Args:
        session: the loaded engine; it has not been called yet.
        task: JSON, the last argument of the command line.

    Returns:
        JSON on one line.
    """
    request = json.loads(task)
    if request["measure"] == MEMORY:
        return json.dumps(measure_memory(session))
    if request["measure"] == LABELS:
        return json.dumps(label_images(session, Path(request["images"]), Path(request["labels"])))
    raise ValueError(f"unknown task {request['measure']!r}")
