"""The whole way in one command: train, export, bench; a finished stage is kept and skipped the next time.

Each stage leaves a key in ``stages.json``: the hash of everything that went into it. A stage whose key is unchanged
is skipped; one that was interrupted is resumed (training) or done again (the others, which write whole or nothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fptk.core.console import TERMINAL, log
from fptk.core.errors import InputError
from fptk.core.files import make_folder, read_json, sha256_file, sha256_json, write_json
from fptk.core.precision import Precision
from fptk.export.bundle import MANIFEST
from fptk.export.pipeline import ExportPlan, Outcome, export_bundles, gate_policy
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.runs.source import find_source
from fptk.workflows.bench import BenchReport, BenchRequest, bench_source


@dataclass(frozen=True)
class RunRequest:
    """What ``fptk run`` was asked for."""

    recipe: Recipe
    data: tuple[Path, ...]
    """Data folders; none trains on the synthetic faces of the recipe."""
    out: Path
    targets: tuple[str, ...]
    precisions: tuple[Precision, ...]
    command: str


@dataclass(frozen=True)
class RunResult:
    """What a run left."""

    outcomes: list[Outcome]
    """Engines exported now; empty where the export was kept from before."""
    report: BenchReport | None
    """The table; ``None`` where no engine can run here."""


def run(request: RunRequest) -> RunResult:
    """Train, export and bench, skipping what is finished.

    Raises:
        InputError: the recipe, data or output folder is not usable.
    """
    make_folder(request.out)
    stages = _Stages(RunFolder(request.out).stages)
    _train(request, stages)
    outcomes = _export(request, stages)
    return RunResult(outcomes, _bench(request, stages))


class _Stages:
    """The keys of the finished stages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: dict[str, str] = {}
        if path.is_file():
            try:
                self.keys = TypeAdapter(dict[str, str]).validate_python(read_json(path, "stage file"))
            except ValidationError:
                raise InputError(f"{path} is no stage file; delete it, and finished stages are done again") from None

    def done(self, stage: str, key: str) -> bool:
        return self.keys.get(stage) == key

    def finish(self, stage: str, key: str) -> None:
        self.keys[stage] = key
        write_json(self.path, self.keys)


def _train(request: RunRequest, stages: _Stages) -> None:
    from fptk.training import train

    recipe = request.recipe.model_dump(mode="json")
    training = {name: value for name, value in recipe.items() if name not in ("export", "bench", "description")}
    key = sha256_json([training, [str(path.resolve()) for path in request.data]])
    run = RunFolder(request.out)
    if stages.done("train", key) and run.best.is_file():
        log.print(f"train: kept from before ({run.best})")
        return
    log.print("train", style="bold")
    # A folder with a half-finished training resumes; the trainer refuses one that belongs to another recipe.
    train(request.recipe, request.data, request.out, resume=True, listener=TERMINAL)
    stages.finish("train", key)


def _export(request: RunRequest, stages: _Stages) -> list[Outcome]:
    section = request.recipe.export
    key = sha256_json(
        [section.model_dump(mode="json"), request.targets, request.precisions, sha256_file(RunFolder(request.out).best)]
    )
    if stages.done("export", key):
        log.print(f"export: kept from before ({RunFolder(request.out).bundles})")
        return []
    log.print("export", style="bold")
    plan = ExportPlan(
        targets=request.targets,
        precisions=request.precisions,
        out=request.out,
        command=request.command,
        calib_size=section.calibration_images,
        gate=gate_policy(section, None, None),
        threads=request.recipe.bench.threads,
    )
    outcomes = export_bundles(find_source(request.out), plan)
    if all(outcome.verdict in ("pass", "not judged") for outcome in outcomes):
        stages.finish("export", key)
    return outcomes


def _bench(request: RunRequest, stages: _Stages) -> BenchReport | None:
    manifests = sorted(RunFolder(request.out).bundles.glob(f"*/{MANIFEST}"))
    if not manifests:
        return None
    log.print("bench", style="bold")
    report = bench_source(find_source(request.out), BenchRequest())
    write_json(RunFolder(request.out).bench, report.as_dict())
    stages.finish("bench", sha256_json([sha256_file(path) for path in manifests]))
    return report
