"""Stages: each keeps its limit, none ends the others, and the result is there however they end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fptk.core.errors import InputError
from fptk.workflows.gpu_stages import LOGS, RESULT, TABLE, Finished, Stage, Stages


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def stage(name: str, code: str, limit: float = 20.0, **more: Any) -> Stage:
    return Stage(name, limit, lambda _: program(code), **more)


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return Stages(tmp_path, time.monotonic() + 60, dict(os.environ), tmp_path)


def test_a_failed_stage_does_not_end_those_after_it(stages: Stages, tmp_path: Path) -> None:
    def refuses(limit: float) -> Sequence[str]:
        raise InputError("the wheels are not there")

    def breaks(limit: float) -> Sequence[str]:
        raise ModuleNotFoundError("No module named 'pydantic'")

    stages.run(
        [
            stage("good", "print('images/s 7')", figures=lambda finished: {"said": finished.log.split()[-1]}),
            stage("bad", "import sys; print('it is | broken'); sys.exit(3)"),
            stage("killed", "import os; os.kill(os.getpid(), 9)"),
            Stage("left out", 20.0, refuses),
            Stage("broken", 20.0, breaks),
            Stage("no such program", 20.0, lambda _: ["/nowhere/program"]),
            stage("half written", "pass", figures=lambda finished: {"x": json.loads("{")}),
            stage("last", "print('done')"),
        ]
    )
    found = {outcome.name: outcome for outcome in stages.outcomes}
    statuses = [outcome.status for outcome in stages.outcomes]
    assert statuses == ["ok", "failed", "failed", "skipped", "failed", "failed", "ok", "ok"]
    assert found["good"].figures == {"said": "7"}
    assert found["bad"].reason == "exit code 3: it is | broken"
    assert found["killed"].reason.startswith("SIGKILL")
    assert found["left out"].reason == "the wheels are not there"
    assert "pydantic" in found["broken"].reason
    assert "No such file" in found["no such program"].reason
    assert "JSONDecodeError" in found["half written"].figures["no figures"]
    logs = (tmp_path / LOGS).read_text(encoding="utf-8")
    assert logs.index("===== good") < logs.index("images/s 7") < logs.index("===== bad") < logs.index("done")
    assert len(json.loads((tmp_path / RESULT).read_text(encoding="utf-8"))["stages"]) == 8
    rows = (tmp_path / TABLE).read_text(encoding="utf-8").splitlines()
    assert len(rows) == 10
    assert r"it is \| broken" in rows[3]


def test_at_its_limit_a_program_is_interrupted_and_may_save(stages: Stages, tmp_path: Path) -> None:
    code = (
        "import time, pathlib\n"
        "try: time.sleep(30)\n"
        f"except KeyboardInterrupt: pathlib.Path({str(tmp_path / 'saved')!r}).write_text('weights')"
    )
    stages.run([stage("trains", code, 1.5), stage("after", "pass")])
    assert [outcome.status for outcome in stages.outcomes] == ["stopped", "ok"]
    assert stages.outcomes[0].seconds < 8
    assert (tmp_path / "saved").read_text() == "weights"


def test_a_program_that_ignores_the_interrupt_is_killed_with_its_helpers(stages: Stages, tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    code = (
        "import signal, subprocess, sys, time, pathlib\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(helper)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    stages.run([stage("stubborn", code, 1.5, grace_s=0.5)])
    assert stages.outcomes[0].status == "stopped"
    assert stages.outcomes[0].seconds < 6
    deadline = time.monotonic() + 5
    while is_running(int(helper.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether the process lives; one that nobody has waited for yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_stage_begins_without_time(tmp_path: Path) -> None:
    stages = Stages(tmp_path, time.monotonic() + 14, dict(os.environ), tmp_path)
    told: list[float] = []

    def command(limit: float) -> list[str]:
        told.append(limit)
        return program("pass")

    stages.run([Stage("short", 100.0, command, grace_s=1.0)], reserve_s=5.0)
    stages.run([Stage("reserved", 100.0, command, grace_s=5.0)], reserve_s=8.0)
    assert [outcome.status for outcome in stages.outcomes] == ["ok", "skipped"]
    assert stages.outcomes[1].reason == "no time was left"
    assert len(told) == 1
    assert 7 < told[0] <= 8


def test_figures_are_told_how_long_it_took(stages: Stages) -> None:
    seen: list[Finished] = []

    def figures(finished: Finished) -> dict[str, Any]:
        seen.append(finished)
        return {"rate": 1234.56789, "rows": [1, 2], "text": "# Speeds\n"}

    stages.run([stage("timed", "import time; time.sleep(0.3)", figures=figures)])
    assert seen[0].ok
    assert 0.3 <= seen[0].seconds < 10
    assert "rate 1235" in (stages.out / TABLE).read_text()
    assert "rows" not in (stages.out / TABLE).read_text()
    assert (stages.out / TABLE).read_text().endswith("|\n\n## timed\n\n# Speeds\n")
