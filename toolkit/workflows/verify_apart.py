"""Bundles that are each verified in a process of its own: an engine that crashes takes no other verdict with it.

Nor does an engine leave anything behind for the next: after an int8 attention that OpenVINO 2026.4.1 computed wrongly
on AMX, its bf16 attentions of other engines gave NaN until the process ended.

``python -m fptk.workflows.verify_apart REQUEST`` is that process; it writes its verdict as JSON.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fptk.core.crash import crash_of
from fptk.core.errors import FptkError
from fptk.core.host import describe_host, tool_versions
from fptk.core.progress import SILENT, Listener
from fptk.export.bundle import read_bundle
from fptk.workflows.verify import Check, Verification, VerifyPlan, VerifyReport, bundles_in, known_of, verify_bundle


class Request(BaseModel):
    """What the process is to do."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    plan: VerifyPlan
    quiet: bool
    """Show no progress."""
    answer: Path
    """File that gets the verdict."""


def verify_bundles(folders: Sequence[Path], plan: VerifyPlan, listener: Listener = SILENT) -> VerifyReport:
    """Verify bundles, wherever they are.

    Args:
        folders: bundles, folders of bundles, or run folders.
        plan: how.
        listener: hears which bundle it is about. Where it is not silent, the processes show their progress themselves.
    """
    host = {key: tuple(value) if isinstance(value, list) else value for key, value in describe_host().items()}
    found = []
    for folder in bundles_in(folders):
        listener.say(f"verifying {folder}")
        found.append(verify_apart(folder, plan, quiet=listener is SILENT))
    return VerifyReport(host=host, tools=tool_versions(), bundles=tuple(found))


def verify_apart(folder: Path, plan: VerifyPlan, *, quiet: bool = True) -> Verification:
    """The verdict on one bundle, from a process of its own.

    Raises:
        RuntimeError: it ended without a verdict, and did not crash (a bug).
    """
    with tempfile.TemporaryDirectory() as temporary:
        answer = Path(temporary, "verdict.json")
        request = Request(folder=folder, plan=plan, quiet=quiet, answer=answer)
        command = [sys.executable, "-P", "-m", "fptk.workflows.verify_apart", request.model_dump_json()]
        # Its standard output could only be a runtime's chatter, and --json - writes there. Ctrl-C is for this process
        # alone, which then ends the other.
        code = subprocess.run(command, stdout=subprocess.DEVNULL, process_group=0).returncode
        if answer.is_file():
            return Verification.model_validate_json(answer.read_bytes())
    crash = crash_of(code)
    if crash is None:
        raise RuntimeError(f"the process that verifies {folder} ended with exit code {code} and no verdict")
    return _crashed(folder, crash)


def _crashed(folder: Path, crash: str) -> Verification:
    """The verdict on a bundle whose engine ended its process."""
    known: dict[str, Any] = {}
    with contextlib.suppress(FptkError):  # where it is the reading of the bundle that crashed
        known = known_of(folder, read_bundle(folder))
    reason = (
        f"the engine crashed its runtime here with {crash}; update the runtime, or export again on a host like this"
    )
    return Verification(
        folder=str(folder),
        verdict="cannot run",
        reason=reason,
        checks=(Check(name="engine", outcome="failed", text=reason),),
        **known,
    )


def main(arguments: Sequence[str]) -> int:
    """Verify the bundle that the request names, and write the verdict; the exit code."""
    from fptk.core.console import TERMINAL

    request = Request.model_validate_json(arguments[0])
    found = verify_bundle(request.folder, request.plan, SILENT if request.quiet else TERMINAL)
    request.answer.write_text(found.model_dump_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
