"""The stages of ``gpu_check``: what is run on a machine with a GPU, in which order, for how long.

Imports of this module need nothing but Python: the packages that fptk needs are installed by one of its stages.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fptk.core.errors import InputError
from fptk.core.files import make_folder, write_json
from fptk.core.progress import Listener
from fptk.workflows.gpu_parts import parts_in, received
from fptk.workflows.gpu_stages import TEXT, Finished, Stage, Stages, StageSkippedError

SECONDS = {
    "unpack": 20,
    "install": 40,
    "probe": 40,
    "gpu tests": 150,
    "inference speed": 90,
    "rate fp16 eager": 40,
    "rate bf16 eager": 40,
    "rate fp16 compiled": 100,
    "rate bf16 compiled": 100,
    "training": 0,
    "weights": 15,
}
"""Most seconds of each stage; the training gets what the others leave. A first compilation takes about a minute."""

RATES = ("fp16 eager", "bf16 eager", "fp16 compiled", "bf16 compiled")
"""Arithmetic and graph of the trainings whose rates are compared."""

MARGIN = 0.93
"""Share of the time that the schedule is fitted to: the rest is for validations, and for a rate that was too high."""

FEW = 1000
"""Training faces of the short trainings."""

PATIENCE = 4.0
"""A rehearsal's limits are so many times longer: its machine may be slow and have other work."""

PROFILED = re.compile(r"(?P<rate>[\d.]+) images/s over \d+ steps(?:; the GPU works (?P<busy>\d+)%)?")
"""The last line of a training's profile."""

LEAST_TRAINING_S = 20.0
"""Seconds below which a schedule isn't worth fitting."""


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    root: Path
    """The checkout."""
    store: Path
    """Where parts and packages are kept."""
    packs: Path | None
    """Folder of parts to take in first."""
    out: Path
    """Folder of the result."""
    seconds: float
    """Time for all stages."""
    recipe: str
    """Recipe of the training: a name or a file."""
    rehearse: bool
    """Make every stage tiny."""
    env: Mapping[str, str]
    """Environment of the stages."""

    @property
    def faces(self) -> Path:
        """The data set."""
        return self.store / "faces"

    @property
    def weights(self) -> Path:
        """The weights that the training starts from."""
        return self.store / "weights" / "start.safetensors"

    @property
    def runs(self) -> Path:
        """Run folders; outside the result, for they are large."""
        return self.store / "runs"

    @property
    def rates(self) -> Path:
        """Rates of the short trainings."""
        return self.store / "rates.json"

    @property
    def training(self) -> Path:
        """The run folder of the long training."""
        return self.runs / "training"


@dataclass(frozen=True)
class Rate:
    """How fast one kind of training is."""

    variant: str
    images_per_s: float
    startup_s: float
    """Seconds of that training's process in which no image of the measured kind was trained on."""

    def images_in(self, seconds: float) -> float:
        """Images of a training of so many seconds, start included; 0 or more."""
        return max(0.0, self.images_per_s * (seconds - self.startup_s) * MARGIN)


def fitted_steps(rates: Sequence[Rate], seconds: float, batch: int) -> tuple[Rate, int]:
    """The kind of training that sees most images in the time, and its optimizer steps.

    Args:
        rates: as measured; at least one.
        seconds: time of the training, its start included.
        batch: images a step.
    """
    best = max(rates, key=lambda rate: rate.images_in(seconds))
    return best, max(1, int(best.images_in(seconds) / batch))


def stages_of(job: Job) -> tuple[list[Stage], list[Stage], list[Stage]]:
    """The stages before the training, the training, and those after it."""
    entry = job.root / "toolkit" / "workflows" / "gpu_check.py"
    python = [sys.executable, "-P"]
    patience = PATIENCE if job.rehearse else 1.0
    limits = {name: patience * seconds for name, seconds in SECONDS.items()}

    def unpack(limit: float) -> list[str]:
        parts = list(parts_in(job.packs)) if job.packs else []
        if not parts:
            raise StageSkippedError(f"no parts were given; {len(received(job.store))} are in {job.store}")
        return [*python, str(entry), "--store", str(job.store), "--receive", *map(str, parts)]

    def speed(limit: float) -> list[str]:
        weights, result = str(_there(job.weights)), str(job.store / "speed.json")
        tiny = ["--device", "cpu", "--size", "64", "64", "--batches", "1", "--only", "eager"] if job.rehearse else []
        seconds = f"{limit * (0.1 if job.rehearse else 0.9):.0f}"
        photographs = job.faces / "val" / "images"
        faces = ["--faces", str(photographs)] if photographs.is_dir() else []
        return fptk_module("gpu_speed", "--weights", weights, "--out", result, "--limit", seconds, *faces, *tiny)

    before = [
        Stage("unpack", limits["unpack"], unpack, lambda _: {"parts": len(received(job.store))}),
        Stage("install", limits["install"], partial(_install, job)),
        Stage(
            "probe",
            limits["probe"],
            lambda limit: fptk_module("gpu_probe", str(job.store / "probe.json"), f"{limit * 0.8:.0f}"),
            lambda _: _probed(job.store / "probe.json"),
        ),
        Stage("gpu tests", limits["gpu tests"], partial(_tests, job), _test_counts),
        Stage("inference speed", limits["inference speed"], speed, lambda _: _speeds(job.store / "speed.json")),
        *(
            Stage(
                f"rate {each}",
                limits[f"rate {each}"],
                partial(_rate_command, job, each),
                partial(_rate, job, each),
            )
            for each in RATES
        ),
    ]
    training = Stage("training", job.seconds, partial(_train, job), lambda _: _trained(job), grace_s=15.0)
    weights = Stage(
        "weights",
        limits["weights"],
        lambda _: fptk_module("gpu_weights", str(_there(job.training)), str(job.out)),
        lambda finished: {"files": finished.log.split()},
    )
    return before, [training], [weights]


def fptk_module(name: str, *arguments: str) -> list[str]:
    """Command of a developers' program of fptk."""
    return [sys.executable, "-m", f"fptk.workflows.{name}", *arguments]


def check(job: Job, only: Sequence[str] | None, skip: Sequence[str], listener: Listener) -> int:
    """Run the stages; the exit code: 0, or 1 where one failed.

    Args:
        job: what to do.
        only: run only the stages whose names start so; None for all.
        skip: leave out those whose names start so.
        listener: told of each stage.

    Raises:
        InputError: no stage is left, or the result's folder cannot be made.
    """
    make_folder(job.out)
    groups = [[stage for stage in group if _is_wanted(stage.name, only, skip)] for group in stages_of(job)]
    if not any(groups):
        raise InputError(f"--only and --skip leave no stage; the stages are {', '.join(SECONDS)}")
    shutil.rmtree(job.runs, ignore_errors=True)
    if any(stage.name.startswith("rate") for stage in groups[0]):
        job.rates.unlink(missing_ok=True)
    facts = {"minutes": job.seconds / 60, "recipe": job.recipe, "rehearsal": job.rehearse}
    stages = Stages(job.out, time.monotonic() + job.seconds, job.env, job.root, listener, facts)
    after = sum(stage.limit_s + stage.grace_s for stage in groups[2])
    for group, reserve in zip(groups, (after, after, 0.0), strict=True):
        stages.run(group, reserve_s=reserve)
    return int(any(outcome.status == "failed" for outcome in stages.outcomes))


def _is_wanted(name: str, only: Sequence[str] | None, skip: Sequence[str]) -> bool:
    return (only is None or name.startswith(tuple(only))) and not name.startswith(tuple(skip))


def _there(path: Path) -> Path:
    if not path.exists():
        raise StageSkippedError(f"{path} is not there")
    return path


def _install(job: Job, limit: float) -> list[str]:
    """pip, of the received wheels, into the store: the machine's own Python stays as it was."""
    wheels = sorted(map(str, (job.store / "wheels").glob("*.whl")))
    if not wheels:
        raise StageSkippedError(f"{job.store} holds no wheels; receive part 1")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action", "ignore"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--upgrade"]
    return [sys.executable, "-m", "pip", "install", *quiet, *offline, "--target", str(job.store / "site"), *wheels]


def _tests(job: Job, limit: float) -> list[str]:
    """Only files with such tests: others may need packages that a bare machine doesn't have."""
    files = [path for path in sorted((job.root / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    names = [str(path.relative_to(job.root)) for path in files]
    options = ["-m", "gpu", "-rs", "-q", "-n", "4", "--durations=8", "-p", "no:cacheprovider"]
    options += ["--continue-on-collection-errors"]
    return [sys.executable, "-m", "pytest", *options, *names]


def _test_counts(finished: Finished) -> dict[str, Any]:
    """Passed, failed and skipped tests, of pytest's last line."""
    lines = [line for line in finished.log.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    found = re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed)", lines[-1]) if lines else []
    return {kind: int(count) for count, kind in found}


def _few(job: Job) -> Path:
    """Some of the faces, as links: a training looks at every file before its first step, and a short one needs few."""
    few = job.store / "few"
    shutil.rmtree(few, ignore_errors=True)
    for split, count in (("train", 8 if job.rehearse else FEW), ("val", 4)):
        for kind in ("images", "masks"):
            (few / split / kind).mkdir(parents=True)
            for path in sorted((_there(job.faces) / split / kind).iterdir())[:count]:
                (few / split / kind / path.name).symlink_to(path)
    return few


def _train_command(job: Job, faces: Path, out: Path, variant: str | None, *options: str) -> list[str]:
    chosen = list(options)
    if variant is not None:
        precision, graph = variant.split()
        chosen += ["--set", f"precision.amp={precision}"]
        chosen += ["--set", f"precision.compile={'true' if graph == 'compiled' else 'false'}"]
    if job.rehearse:
        chosen += ["--size", "64", "--batch", "2"]
    given = ["--recipe", job.recipe, "--data", str(faces), "--init-weights", str(_there(job.weights))]
    return [sys.executable, "-m", "fptk", "train", *given, "--out", str(out), *chosen]


def _rate_options(job: Job) -> list[str]:
    """A short training under ``--profile``: its rate is of the device's own clock, without start and compilation."""
    return [
        *("--size", "512", "--profile", "--set", "data.eval_every=1000000"),
        *("--set", "optim.epochs=100000", "--set", f"optim.max_steps={8 if job.rehearse else 75}"),
        *("--set", "checkpoint.every_steps=1000000"),
    ]


def _rate_command(job: Job, variant: str, limit: float) -> list[str]:
    return _train_command(job, _few(job), _rate_run(job, variant), variant, *_rate_options(job))


def _rate_run(job: Job, variant: str) -> Path:
    return job.runs / variant.replace(" ", "-")


def _rate(job: Job, variant: str, finished: Finished) -> dict[str, Any]:
    """Keep the rate of a short training that ended, for the training to be fitted to."""
    if not finished.ok:
        return {}
    found = PROFILED.search(finished.log)
    if found is None:
        raise ValueError("the profile names no rate")
    speed = float(found["rate"])
    startup = round(max(0.0, finished.seconds - _records(_rate_run(job, variant))[-1]["images"] / speed), 2)
    rates = [rate for rate in kept_rates(job) if rate.variant != variant]
    write_json(job.rates, [asdict(rate) for rate in (*rates, Rate(variant, speed, startup))])
    busy = {} if found["busy"] is None else {"GPU works %": int(found["busy"])}
    return {"images/s": speed, **busy, "start s": startup}


def kept_rates(job: Job) -> list[Rate]:
    """Rates measured by this call, or by one before it that this one goes on from."""
    return [Rate(**each) for each in _json(job.rates)] if job.rates.is_file() else []


def _train(job: Job, limit: float) -> list[str]:
    """The long training: one cosine over as many steps as the measured rate allows in the time."""
    rates, options = kept_rates(job), ["--set", "optim.epochs=100000"]
    if job.rehearse:
        variant = rates[0].variant if rates else None
        return _train_command(job, _few(job), job.training, variant, *options, "--set", "optim.max_steps=6")
    if limit < LEAST_TRAINING_S:
        raise StageSkippedError(f"only {limit:.0f} s were left")
    if not rates:  # the recipe's own schedule, until the limit
        return _train_command(job, _there(job.faces), job.training, None)
    best, steps = fitted_steps(rates, limit, _batch(job))
    return _train_command(
        job, _there(job.faces), job.training, best.variant, *options, "--set", f"optim.max_steps={steps}"
    )


def _batch(job: Job) -> int:
    """Images a step of the recipe. Its packages may have been installed by a stage of this very process."""
    importlib.invalidate_caches()
    from fptk.recipes import Recipe

    return Recipe.load(job.recipe).data.batch


def _trained(job: Job) -> dict[str, Any]:
    records = _records(job.training)
    best = max(records, key=lambda record: record["f1"])
    last = records[-1]
    return {
        "steps": last["step"],
        "images": last["images"],
        "epochs": last["epoch"],
        "images/s": last["images_per_s"],
        "best f1": best["f1"],
        "at step": best["step"],
        "last f1": last["f1"],
        "validations": records,
    }


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _probed(path: Path) -> dict[str, Any]:
    found = _json(path)
    rtx = found.get("tensorrt-rtx", {})
    what = "runs" if rtx.get("loaded") else "refused: " + (rtx.get("reason") or "no reason")
    return {"gpu": found["gpu"]["gpu"], "TensorRT-RTX": what, "found": found}


def _speeds(path: Path) -> dict[str, Any]:
    return {TEXT: path.with_suffix(".md").read_text(encoding="utf-8"), "measured": _json(path)}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def planned(minutes: float) -> list[tuple[str, int]]:
    """Stages and their most seconds in a check of so many minutes; the training's are what is surely left to it."""
    others = sum(SECONDS.values())
    return [(name, seconds or max(0, round(minutes * 60 - others))) for name, seconds in SECONDS.items()]
