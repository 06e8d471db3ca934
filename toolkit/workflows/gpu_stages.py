"""Stages: programs that run one after the other, each with a time limit, each whatever became of those before.

The result is written again after every stage, so that it is there however the whole ends. Nothing here needs more than
Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fptk.core.crash import crash_of
from fptk.core.errors import FptkError
from fptk.core.files import write_json, write_text
from fptk.core.progress import SILENT, Listener

RESULT, TABLE, LOGS = "result.json", "result.md", "logs.txt"

TEXT = "text"
"""Figure that is a text of several lines: it stands below the table."""

SHORTEST = 1.0
"""Seconds below which a stage isn't begun."""

TAIL = 4000
"""Characters of a stage's log among which the reason of a failure is looked for."""

Status = Literal["ok", "failed", "stopped", "skipped"]


class StageSkippedError(FptkError):
    """A stage cannot be begun; the message says why."""


@dataclass(frozen=True)
class Finished:
    """What a stage left.

    Attributes:
        log: all that the program printed.
        seconds: time that it ran.
        ok: it ended by itself with exit code 0.
    """

    log: str
    seconds: float
    ok: bool


def no_figures(finished: Finished) -> dict[str, Any]:
    """A stage that is not asked for figures."""
    return {}


@dataclass(frozen=True)
class Stage:
    """One program.

    Attributes:
        name: a few words.
        limit_s: seconds that it may take; it gets less where less is left.
        command: the program, made when its turn comes; it is told the seconds it gets. Raises an FptkError where the
            stage has to be left out.
        figures: what the table says of it. It may raise whatever it likes; the table says so, but for a
            stage that failed.
        grace_s: seconds from the interrupt at the limit to the kill.
    """

    name: str
    limit_s: float
    command: Callable[[float], Sequence[str]]
    figures: Callable[[Finished], dict[str, Any]] = no_figures
    grace_s: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    name: str
    status: Status
    seconds: float = 0.0
    limit_s: float = 0.0
    reason: str = ""
    """Why it isn't ok, in one line."""
    command: tuple[str, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stages:
    """Runs stages.

    Attributes:
        out: folder of the result: ``result.json``, ``result.md`` and ``logs.txt``.
        deadline: time by ``time.monotonic`` at which all must be over.
        env: environment of the programs.
        cwd: folder that they run in.
        listener: told of each stage.
        facts: what the result says beside the stages.
        outcomes: of the stages so far.
    """

    out: Path
    deadline: float
    env: Mapping[str, str]
    cwd: Path
    listener: Listener = SILENT
    facts: dict[str, Any] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, stages: Sequence[Stage], *, reserve_s: float = 0.0) -> None:
        """Run the stages in order; none raises.

        Args:
            stages: what to run.
            reserve_s: seconds to leave before the deadline for what comes after them.
        """
        for stage in stages:
            left = self.deadline - reserve_s - time.monotonic()
            outcome = self._run(stage, min(stage.limit_s, left - stage.grace_s))
            self.outcomes.append(outcome)
            self.listener.say(line_of(outcome))
            self.write()

    def _run(self, stage: Stage, limit: float) -> Outcome:
        if limit < SHORTEST:
            return Outcome(stage.name, "skipped", reason="no time was left")
        try:
            command = tuple(stage.command(limit))
        except FptkError as error:
            return Outcome(stage.name, "skipped", reason=str(error))
        except Exception as error:  # what an earlier stage failed to install, for one, must not end those after it
            return Outcome(stage.name, "failed", reason=f"{type(error).__name__}: {error}")
        self.listener.say(f"{stage.name}: at most {limit:.0f} s", heading=True)
        started = time.monotonic()
        code, log = self._program(stage, command, limit)
        seconds = round(time.monotonic() - started, 2)
        status, reason = _verdict(code, log)
        try:
            figures = stage.figures(Finished(log, seconds, status == "ok"))
        except Exception as error:  # whatever a program left half written must not end the stages after it
            figures = {} if status == "failed" else {"no figures": f"{type(error).__name__}: {error}"}
        return Outcome(stage.name, status, seconds, round(limit, 1), reason, command, figures)

    def _program(self, stage: Stage, command: tuple[str, ...], limit: float) -> tuple[int | None, str]:
        """Exit code, or None for a program that was stopped at its limit, and all that it printed."""
        logs = self.out / LOGS
        with logs.open("ab") as log:
            log.write(f"\n===== {stage.name}\n$ {' '.join(command)}\n".encode())
            log.flush()
            start = log.tell()
            try:
                code = run_limited(command, limit, log.fileno(), env=self.env, cwd=self.cwd, grace_s=stage.grace_s)
            except OSError as error:
                log.write(f"{command[0]} cannot be run: {error.strerror}\n".encode())
                code = 127
        with logs.open("rb") as log:
            log.seek(start)
            return code, log.read().decode(errors="replace")

    def write(self) -> None:
        """Write the result as it stands."""
        write_json(self.out / RESULT, {**self.facts, "stages": [asdict(each) for each in self.outcomes]})
        texts = [f"\n## {each.name}\n\n{each.figures[TEXT]}" for each in self.outcomes if TEXT in each.figures]
        write_text(self.out / TABLE, "".join([table(self.outcomes), *texts]))


def run_limited(
    command: Sequence[str], limit_s: float, log: int, *, env: Mapping[str, str], cwd: Path, grace_s: float
) -> int | None:
    """Run a program in a session of its own. At its limit it is interrupted (SIGINT), and killed if it goes on.

    Only the program itself is interrupted, so that it can end its own helpers; what is left of them is killed.

    Args:
        command: the program and its arguments.
        limit_s: seconds until the interrupt.
        log: file descriptor that takes stdout and stderr.
        env: its environment.
        cwd: its folder.
        grace_s: seconds from the interrupt to the kill.

    Returns:
        The exit code; None if it was stopped at the limit.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(env), cwd=cwd, start_new_session=True
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _verdict(code: int | None, log: str) -> tuple[Status, str]:
    if code is None:
        return "stopped", "stopped at its limit"
    if code == 0:
        return "ok", ""
    lines = [line.strip() for line in log[-TAIL:].splitlines() if line.strip()]
    how = crash_of(code) or f"exit code {code}"
    return "failed", f"{how}: {lines[-1][:300]}" if lines else how


def line_of(outcome: Outcome) -> str:
    """A stage in one line."""
    return " · ".join(filter(None, [outcome.name, outcome.status, f"{outcome.seconds:.1f} s", _text(outcome)]))


def table(outcomes: Sequence[Outcome]) -> str:
    """The stages as a Markdown table."""
    head = ("stage", "result", "seconds", "limit", "figures")
    rows = [(o.name, o.status, f"{o.seconds:.1f}", f"{o.limit_s:.0f}", _text(o)) for o in outcomes]
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _text(outcome: Outcome) -> str:
    """Reason and plain figures; nested ones are in the JSON file only."""
    plain = {k: value for k, value in outcome.figures.items() if k != TEXT and not isinstance(value, (dict, list))}
    return " · ".join(filter(None, [outcome.reason, *(f"{key} {_short(value)}" for key, value in plain.items())]))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
