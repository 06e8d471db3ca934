"""``fptk ablate``: train the rows of a table at one scale, build their engines, and set the figures side by side."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fptk.benchmarks.latency import LatencyPlan
from fptk.core.files import make_folder
from fptk.core.host import describe_host, tool_versions, usable_cores
from fptk.core.progress import SILENT, Listener
from fptk.recipes import Recipe
from fptk.runs.source import find_source
from fptk.workflows.ablation.engines import Engine, build_engines, measure_engines
from fptk.workflows.ablation.table import Metric, Table, TableRow
from fptk.workflows.ablation.trainings import Trained, Training, train_all


@dataclass(frozen=True)
class Scale:
    """What is changed in every row, to suit the machine at hand; ``None`` leaves what the recipes say."""

    images: int | None = None
    """Training images, evenly spaced over the training set."""
    epochs: float | None = None
    """Passes over them."""
    size: int | None = None
    """Side of the training and validation images."""
    assignments: tuple[str, ...] = ()
    """Further ``key.path=value``, as ``fptk train --set`` takes them."""

    @property
    def overrides(self) -> list[str]:
        """All of it as assignments."""
        changes = []
        if self.images is not None:
            changes.append(f"data.train_images={self.images}")
        if self.epochs is not None:
            changes.append(f"optim.epochs={self.epochs:g}")
        if self.size is not None:
            changes += ["data.phases=[]", f"data.size={self.size}", "data.eval_size=null"]
        return [*changes, *self.assignments]


@dataclass(frozen=True)
class AblationRequest:
    """What ``fptk ablate`` was asked for."""

    table: Table
    data: tuple[Path, ...]
    """Data set folders; empty for the recipes' synthetic faces."""
    out: Path
    """Folder of the trainings; tables in one folder share the rows that they have in common."""
    scale: Scale
    seeds: int
    """Trainings a row, with seeds 0, 1, …"""
    jobs: int
    """Trainings that run at a time."""
    engines: tuple[str, ...]
    """Targets to export each row's first training to; empty for none."""
    threads: int | None
    """CPU threads of one inference."""
    command: str


@dataclass(frozen=True)
class Result:
    """One row with its figures."""

    row: TableRow
    recipe: Recipe
    """At the table's scale, with the first seed."""
    trained: list[Trained]
    """One per seed."""
    engines: list[Engine]

    def scores(self, metric: Metric) -> list[float]:
        """The score of each seed, a fraction of 1."""
        return [each.scores[metric] for each in self.trained]

    def mean(self, metric: Metric) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.scores(metric))

    def deviation(self, metric: Metric) -> float | None:
        """Sample standard deviation over the seeds; ``None`` of a single one."""
        values = self.scores(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def seconds_per_epoch(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(each.seconds_per_epoch for each in self.trained)

    @property
    def peak_bytes(self) -> int | None:
        """Most of the seeds."""
        peaks = [each.peak_bytes for each in self.trained if each.peak_bytes is not None]
        return max(peaks, default=None)


@dataclass(frozen=True)
class Ablation:
    """A table with its figures and the conditions they were had under."""

    request: AblationRequest
    results: list[Result]
    host: dict[str, Any]
    tools: dict[str, str]
    timing: LatencyPlan
    threads: int
    """Of one inference."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        table, request = self.request.table, self.request
        rows = [
            {
                "label": result.row.label,
                "recipe": result.recipe.model_dump(mode="json"),
                "paper": result.row.paper,
                "trained": [asdict(each) for each in result.trained],
                "engines": [asdict(each) for each in result.engines],
            }
            for result in self.results
        ]
        return {
            "schema_version": 1,
            "table": table.name,
            "title": table.title,
            "command": request.command,
            "paper_conditions": table.paper,
            "changed": request.scale.overrides,
            "seeds": request.seeds,
            "jobs": request.jobs,
            "inference_threads": self.threads,
            "timing": asdict(self.timing),
            "host": self.host,
            "tools": self.tools,
            "rows": rows,
        }


def ablate(request: AblationRequest, listener: Listener = SILENT) -> Ablation:
    """Train what is not trained yet, build what is not built yet, and measure.

    Raises:
        InputError: a recipe is not usable at this scale, or the folder holds trainings at another one.
        FptkError: a training ended with an error.
    """
    make_folder(request.out)
    recipes = [Recipe.load(row.recipe).with_overrides(request.scale.overrides) for row in request.table.rows]
    trainings = [_training(recipe, seed, request.out) for recipe in recipes for seed in range(request.seeds)]
    trained = train_all(trainings, request.data, request.jobs, listener)
    firsts = trainings[:: request.seeds]
    folders: list[list[Path]] = [[] for _ in firsts]
    if request.engines:
        sources = [find_source(first.run.path) for first in firsts]
        folders = [build_engines(source, request.engines, request.command, listener) for source in sources]
    timing, threads = LatencyPlan(), request.threads or usable_cores()
    engines = measure_engines(folders, timing, threads, listener)
    by_row = [trained[start : start + request.seeds] for start in range(0, len(trained), request.seeds)]
    rows = zip(request.table.rows, firsts, by_row, engines, strict=True)
    results = [Result(row, first.recipe, figures, built) for row, first, figures, built in rows]
    return Ablation(request, results, describe_host(), tool_versions(), timing, threads)


def _training(recipe: Recipe, seed: int, out: Path) -> Training:
    return Training(recipe.with_overrides([f"seed={seed}"]), out / recipe.name / f"seed-{seed}")
