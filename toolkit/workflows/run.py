"""The whole way in one command: train, export, bench; a finished stage is kept and skipped the next time.

Each stage leaves a key in ``stages.json``: the hash of everything that went into it. A stage whose key is unchanged
is skipped; one that was interrupted is resumed (training) or done again (the others, which write whole or nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fptk.benchmarks.report import BenchReport
from fptk.calibration.gate import Decision
from fptk.core.errors import InputError
from fptk.core.files import make_folder, read_json, sha256_file, sha256_json, write_json
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.export.bundle import MANIFEST, Bundle
from fptk.export.exporter import export
from fptk.export.plan import ExportPlan
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.runs.source import find_source
from fptk.workflows.bench import BenchRequest, bench_source


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

    bundles: Sequence[Bundle]
    """Engines exported now; empty where the export was kept from before."""
    report: BenchReport | None
    """The table; ``None`` where no engine can run here."""


def run(request: RunRequest, listener: Listener = SILENT) -> RunResult:
    """Train, export and bench, skipping what is finished.

    Raises:
        InputError: the recipe, data or output folder is not usable.
    """
    make_folder(request.out)
    stages = _Stages(RunFolder(request.out).stages)
    _train(request, stages, listener)
    bundles = _export(request, stages, listener)
    return RunResult(bundles, _bench(request, stages, listener))


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


def _train(request: RunRequest, stages: _Stages, listener: Listener) -> None:
    from fptk.training import train

    recipe = request.recipe.model_dump(mode="json")
    training = {name: value for name, value in recipe.items() if name not in ("export", "bench", "description")}
    key = sha256_json([training, [str(path.resolve()) for path in request.data]])
    run = RunFolder(request.out)
    if stages.done("train", key) and run.best.is_file():
        listener.say(f"train: kept from before ({run.best})")
        return
    listener.say("train", heading=True)
    # A folder with a half-finished training resumes; the trainer refuses one that belongs to another recipe.
    train(request.recipe, request.data, request.out, resume=True, listener=listener)
    stages.finish("train", key)


def _export(request: RunRequest, stages: _Stages, listener: Listener) -> Sequence[Bundle]:
    section = request.recipe.export
    run = RunFolder(request.out)
    wanted = [section.model_dump(mode="json"), request.targets, request.precisions]
    key = sha256_json([*wanted, sha256_file(run.best)])
    if stages.done("export", key):
        listener.say(f"export: kept from before ({run.bundles})")
        return ()
    listener.say("export", heading=True)
    plan = ExportPlan.of_recipe(
        section,
        targets=request.targets,
        precisions=request.precisions,
        out=request.out,
        command=request.command,
        threads=request.recipe.bench.threads,
    )
    bundles = export(find_source(request.out), plan, listener)
    if all(bundle.verdict in (Decision.PASS, Decision.NOT_JUDGED) for bundle in bundles):
        stages.finish("export", key)
    return bundles


def _bench(request: RunRequest, stages: _Stages, listener: Listener) -> BenchReport | None:
    run = RunFolder(request.out)
    manifests = sorted(run.bundles.glob(f"*/{MANIFEST}"))
    if not manifests:
        return None
    key = sha256_json([request.recipe.bench.model_dump(mode="json"), *(sha256_file(path) for path in manifests)])
    if stages.done("bench", key) and (kept := _kept(run)):
        listener.say(f"bench: kept from before ({run.bench})")
        return kept
    listener.say("bench", heading=True)
    report = bench_source(find_source(request.out), BenchRequest(), listener)
    write_json(run.bench, report.as_dict())
    stages.finish("bench", key)
    return report


def _kept(run: RunFolder) -> BenchReport | None:
    """The table of a finished bench; ``None`` where its file is gone or not of this version."""
    try:
        return TypeAdapter(BenchReport).validate_python(read_json(run.bench, "bench report"))
    except (InputError, ValidationError):
        return None
