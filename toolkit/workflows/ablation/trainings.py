"""The trainings of a table: one per recipe and seed, each in a process of its own, finished ones kept.

A process each, so that the peak of its memory is its own and no cache of one training warms the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fptk.core.errors import FptkError, InputError
from fptk.core.files import make_folder, write_text
from fptk.core.host import usable_cores
from fptk.core.progress import SILENT, Listener
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder

_WITH_PARENT = """
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from fptk.cli import main
main()
"""
"""``fptk`` in a process that is told to end (PR_SET_PDEATHSIG, prctl(2)) when this one is killed: no training goes on
unseen, and its state is saved."""


class StoppedError(FptkError):
    """A signal ended the trainings; each has saved its state.

    Args:
        number: the signal; the exit code is 128 more, as of shells.
    """

    def __init__(self, number: int) -> None:
        super().__init__("stopped; the same command goes on from here")
        self.exit_code = 128 + number


class TrainingFailedError(FptkError):
    """A training of the table ended with an error; its exit code is the training's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Training:
    """A recipe at the table's scale, with one seed."""

    recipe: Recipe
    folder: Path
    """``OUT/RECIPE/seed-SEED``: tables in one folder share the trainings that they have in common."""

    @property
    def run(self) -> RunFolder:
        """The run folder of the training."""
        return RunFolder(self.folder / "run")

    @property
    def log(self) -> Path:
        """What the training says."""
        return self.folder / "train.log"


@dataclass(frozen=True)
class Trained:
    """What a finished training left."""

    seed: int
    parameters: int
    step: int
    best_step: int
    """Step of the best validation f1, whose weights and scores these are."""
    scores: dict[str, float]
    seconds_per_epoch: float
    """Time of the steps, without validations, that one pass over the training images takes."""
    peak_bytes: int | None
    """Most memory in use: allocated on the CUDA device, or else resident in the process, decoded images and all."""
    train_set: str
    train_images: int
    val_set: str
    val_images: int
    weights: str
    """Checkpoint of the best validation."""


def train_all(
    trainings: Sequence[Training], data: Sequence[Path], jobs: int, listener: Listener = SILENT
) -> list[Trained]:
    """Carry out the trainings that are not finished; interrupted ones go on where they were.

    Args:
        trainings: in the order of the table.
        data: data set folders; empty for the recipes' synthetic faces.
        jobs: trainings that run at a time, each with its share of the cores.
        listener: is told the scores of each training that was carried out now, when it has ended.

    Returns:
        The results, in the order of ``trainings``.

    Raises:
        InputError: a folder holds a training of another recipe, scale or data.
        TrainingFailedError: one ended with an error; those that were running are stopped and can go on.
        StoppedError: SIGINT or SIGTERM came.
    """
    todo = [each for each in trainings if not _is_finished(each, data)]
    counter = listener.counting(f"training, {jobs} at a time", len(trainings))
    with counter as update, ThreadPoolExecutor(jobs) as pool, _children() as start:
        futures = {pool.submit(_carry_out, each, data, jobs, start): each for each in todo}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                update(done)
                listener.say(f"{_result(futures[future])} ({done} of at most {len(trainings)})")
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                raise StoppedError(error.args[0] if error.args else signal.SIGINT) from None
            raise
    return [read_trained(each) for each in trainings]


def _result(training: Training) -> str:
    """One line for a training that has ended well."""
    trained = read_trained(training)
    f1, miou = trained.scores["f1"], 100 * trained.scores["miou"]
    return f"{training.recipe.name}, seed {trained.seed}: f1 {f1:.4f}, mIoU {miou:.2f}"


def _is_finished(training: Training, data: Sequence[Path]) -> bool:
    if not training.run.card.exists():
        return False
    if difference := training.run.difference(training.recipe, data):
        raise InputError(f"{training.folder} holds another training: {difference}; choose another --out")
    return training.run.finished() is not None


def _carry_out(
    training: Training, data: Sequence[Path], jobs: int, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    make_folder(training.folder)
    recipe = training.folder / f"{training.recipe.name}.yaml"
    write_text(recipe, yaml.safe_dump(training.recipe.model_dump(mode="json"), sort_keys=False))
    command = [sys.executable, "-c", _WITH_PARENT, "train", "--recipe", str(recipe), "--out", str(training.run.path)]
    command += [argument for folder in data for argument in ("--data", str(folder))]
    if training.run.card.exists():
        command.append("--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))} if jobs > 1 else None
    with training.log.open("ab") as log:
        process = start(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        code = process.wait()
    if code:
        raise TrainingFailedError(_why(training, code), code if code > 0 else 128 - code)


def _why(training: Training, code: int) -> str:
    """One line for a training that failed: its own last one."""
    lines = training.log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}").removeprefix("fptk: ")
    return f"{training.recipe.name}, seed {training.recipe.seed}: {last} (log: {training.log})"


@contextmanager
def _children() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes, and ends those that still run with one SIGTERM, on which a training saves its state.

    A second signal would kill it at once. So a child has a group of its own, where a Ctrl-C at the terminal does not
    reach it, and further signals to this process change nothing.
    """
    running: list[subprocess.Popen[bytes]] = []
    lock = threading.Lock()
    closed = threading.Event()

    def start(*arguments: Any, **settings: Any) -> subprocess.Popen[bytes]:
        with lock:
            if closed.is_set():
                raise FptkError("stopped")
            running.append(subprocess.Popen(*arguments, **settings, process_group=0))
            return running[-1]

    def stop(received: int, _: object) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt(received)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stop)
    try:
        yield start
    finally:
        with lock:
            closed.set()
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            process.wait()
        for caught, handler in previous.items():
            signal.signal(caught, handler)


def read_trained(training: Training) -> Trained:
    """The result of a finished training."""
    run = training.run
    card, records = run.read(), run.records()
    result = card["result"]
    # A record's images_per_s is that of its own window: the steps since the record before.
    windows = zip([0, *(record["images"] for record in records)], records, strict=False)
    seconds = sum((record["images"] - before) / record["images_per_s"] for before, record in windows)
    return Trained(
        seed=training.recipe.seed,
        parameters=result["parameters"],
        step=result["step"],
        best_step=result["best_step"],
        scores=result["scores"],
        seconds_per_epoch=seconds * card["train_images"] / records[-1]["images"],
        peak_bytes=result["peak_bytes"],
        train_set=card["train_set"],
        train_images=card["train_images"],
        val_set=card["val_set"],
        val_images=card["val_images"],
        weights=run.best.as_posix(),
    )
