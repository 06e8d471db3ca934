"""Runs the builder's process and turns what it leaves, crash included, into an engine with a report or one error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fptk.core.crash import crash_of
from fptk.core.errors import FptkError, InputError, TargetUnavailableError
from fptk.export.tensorrt.layer_report import EngineLayer, parse_inspector, parse_log
from fptk.export.tensorrt.options import TensorRTOptions
from fptk.export.tensorrt.product import Product
from fptk.export.tensorrt.trtexec import TIMING_CACHE_FILE
from fptk.export.tensorrt.worker import Job, Outcome

ENGINE_FILE = "model.engine"
LOG_FILE = "build.log"


@dataclass(frozen=True)
class BuiltEngine:
    """What a build left.

    Attributes:
        engine: the engine file.
        log: messages of the builder, without the verbose ones.
        timing_cache: the updated timing cache, where the product has one.
        version: version of TensorRT or TensorRT-RTX.
        seconds: duration of the build.
        layers: the engine's layers.
        warnings: what the builder warned of.
    """

    engine: Path
    log: Path
    timing_cache: Path | None
    version: str
    seconds: float
    layers: tuple[EngineLayer, ...]
    warnings: tuple[str, ...]


class BuildFailedError(TargetUnavailableError):
    """The builder ended without an engine (exit code 3).

    Attributes:
        reason: why, in one line.
        log: all messages of the builder.
    """

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(f"{reason}; the builder's messages are in {log}")
        self.reason = reason
        self.log = log


def build_engine(product: Product, onnx: Path, folder: Path, options: TensorRTOptions) -> BuiltEngine:
    """Build ``folder/model.engine`` from ``onnx`` in a process of its own.

    Raises:
        InputError: the parser rejects the ONNX file; its nodes are named.
        BuildFailedError: the builder found no engine, crashed or ran out of time; the log is kept in ``folder``.
    """
    log, timing_cache = folder / LOG_FILE, folder / TIMING_CACHE_FILE if product.timing_cache else None
    with tempfile.TemporaryDirectory(prefix="fptk-") as scratch:
        job = Job(
            target=product.target,
            # Relative to the folder that the process runs in: the builder writes the name into its log.
            onnx=Path(os.path.relpath(onnx, folder)),
            engine=(folder / ENGINE_FILE).absolute(),
            log=log.absolute(),
            outcome=Path(scratch) / "outcome.json",
            options=options,
            timing_cache=timing_cache.absolute() if timing_cache else None,
        )
        try:
            outcome = _run(product, job, folder, Path(scratch))
        except FptkError:
            job.engine.unlink(missing_ok=True)
            raise
    messages = log.read_text(encoding="utf-8", errors="replace")
    log.write_text(_without_verbose(messages), encoding="utf-8")
    layers = parse_inspector(outcome.inspector) if outcome.inspector else parse_log(messages)
    return BuiltEngine(
        job.engine,
        log,
        timing_cache if timing_cache and timing_cache.is_file() else None,
        outcome.version,
        outcome.seconds,
        tuple(layers),
        tuple(dict.fromkeys(_lines(messages, "W"))),
    )


def _run(product: Product, job: Job, folder: Path, scratch: Path) -> Outcome:
    path = scratch / "job.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    command = worker_command(path)
    limit = job.options.timeout
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise BuildFailedError(f"{product.title} was still building after {limit:g} s", job.log) from error
    messages = job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""
    if done.returncode or not job.outcome.is_file():
        if done.stderr:
            with job.log.open("a", encoding="utf-8") as stream:
                stream.write(f"--- stderr of the builder's process\n{done.stderr}")
        raise BuildFailedError(f"{product.title} {_death(done, messages)}", job.log)
    outcome = Outcome.model_validate_json(job.outcome.read_text(encoding="utf-8"))
    if outcome.parse_errors:
        shown = "; ".join(outcome.parse_errors[:3])
        raise InputError(f"{product.title}'s parser rejects {job.onnx.name}: {shown} (messages in {job.log})")
    return outcome


def worker_command(job: Path) -> list[str]:
    """Command that runs the job file; ``-P`` keeps what lies in the working folder from being imported."""
    return [sys.executable, "-P", "-m", "fptk.export.tensorrt.worker", str(job)]


def _death(done: subprocess.CompletedProcess[str], messages: str) -> str:
    """How the builder's process ended, in words."""
    errors = _lines(messages, "FE")
    last = f": {errors[-1]}" if errors else ""
    crash = crash_of(done.returncode)
    if crash:
        return f"crashed with {crash}{last}"
    if errors:
        return f"could not build the engine{last}"
    said = done.stderr.strip().splitlines()
    return f"could not build the engine: {said[-1] if said else f'exit code {done.returncode}'}"


def _lines(messages: str, letters: str) -> list[str]:
    return [line for _, line in re.findall(rf"^\[([{letters}])\] (.*)$", messages, re.MULTILINE)]


def _without_verbose(messages: str) -> str:
    """Messages above verbose; continuation lines go with the message that they belong to."""
    kept, keep = [], True
    for line in messages.splitlines(keepends=True):
        match = re.match(r"\[([FEWIV])\] ", line)
        keep = match[1] != "V" if match else keep
        if keep:
            kept.append(line)
    return "".join(kept)
