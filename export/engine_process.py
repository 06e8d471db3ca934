"""A process that loads one engine and measures it: for figures that need a process of their own.

``python -m fptk.export.engine_process ENGINE TASK``, both JSON; :mod:`fptk.benchmarks.own_process` knows the tasks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fptk.benchmarks.own_process import answer
from fptk.core.classes import ClassSet
from fptk.core.errors import FptkError
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets.registry import get_target


def engine_command(
    target: str,
    engine: Path,
    spec: PreprocessSpec,
    classes: ClassSet,
    *,
    threads: int | None,
    precision_hint: str | None = None,
) -> list[str]:
    """The command line that loads an engine; a task is still to be added.

    Args:
        target: name in the registry.
        engine, spec, threads, precision_hint: as for :meth:`fptk.export.targets.base.Target.load`.
        classes: what its labels mean.
    """
    request = {
        "target": target,
        "engine": str(engine),
        "spec": spec.model_dump(mode="json"),
        "classes": classes.names,
        "options": {"threads": threads, "precision_hint": precision_hint},
    }
    return [sys.executable, "-P", "-m", "fptk.export.engine_process", json.dumps(request)]


def main(arguments: Sequence[str]) -> int:
    """Load the engine, carry out the task, print the answer; the exit code."""
    request, task = json.loads(arguments[0]), arguments[1]
    spec = PreprocessSpec.model_validate(request["spec"])
    try:
        with get_target(request["target"]).load(Path(request["engine"]), spec, **request["options"]) as session:
            session.classes = ClassSet(names=request["classes"])
            sys.stdout.write(answer(session, task) + "\n")
    except FptkError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
