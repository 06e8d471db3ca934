"""What a report is made of: the run, its bundles, measurements, and results of other machines, as they are on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fptk.benchmarks.report import BenchReport, Row
from fptk.core.errors import InputError
from fptk.core.files import kind_of, read_json
from fptk.export.bundle import Bundle, find_bundles, read_bundle
from fptk.models.checkpoint import first_fault
from fptk.runs.folder import CARD, RunFolder
from fptk.runs.source import newest_trained_run
from fptk.workflows.verify import VerifyReport, read_reports


@dataclass(frozen=True)
class ReportRequest:
    """What ``fptk report`` was asked for."""

    models: tuple[Path, ...] = ()
    """Runs, bundles or folders of bundles; none is the newest run below ``runs/``."""
    data: Path | None = None
    """Images to show and to count mistakes on; ``None`` takes those of the run, or else the golden samples."""
    eval_images: int = 24
    """So many of them, evenly spaced."""
    with_photos: bool = False
    """Show photographs of people too."""
    bench: Path | None = None
    """A file that ``fptk bench --json`` wrote; ``None`` takes the run's own."""
    verified: tuple[Path, ...] = ()
    """Files that ``fptk verify --json`` wrote, one a machine."""
    threads: int | None = None
    """CPU threads of one inference; ``None`` is the engine's default."""


@dataclass(frozen=True)
class Training:
    """A run's own files."""

    folder: RunFolder
    card: dict[str, Any]
    records: list[dict[str, Any]]
    """Lines of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Engine:
    """A bundle, and what is known of it beside its manifest."""

    name: str
    """Unique in the report."""
    bundle: Bundle
    measured: Row | None
    """Its row of the measurements."""


@dataclass(frozen=True)
class Material:
    """Everything that was found."""

    training: Training | None
    engines: tuple[Engine, ...]
    bench: BenchReport | None
    machines: tuple[VerifyReport, ...]

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """Those of :attr:`engines`."""
        return tuple(engine.bundle for engine in self.engines)


def gather(request: ReportRequest) -> Material:
    """Read everything that a report can show; no engine is loaded.

    Raises:
        InputError: there is no run and no bundle, or a file is damaged.
    """
    models = request.models or (_newest(),)
    bundles = [read_bundle(folder) for model in models for folder in _bundles_of(model)]
    run = _common_run(models)
    bench = _read_bench(request.bench) if request.bench else _bench_of(run)
    return Material(
        training=Training(run, run.read(), run.records()) if run else None,
        engines=tuple(_engines(bundles, bench)),
        bench=bench,
        machines=tuple(read_reports(request.verified)),
    )


def default_out(request: ReportRequest) -> Path:
    """Where the report goes: into the run, or else into the working folder."""
    run = _common_run(request.models or (_newest(),))
    return run.report if run else Path(RunFolder(Path()).report.name)


def _newest() -> Path:
    run = newest_trained_run()
    if run is None:
        raise InputError("there is no trained run below runs/; name a run or a bundle")
    return run.path


def _bundles_of(model: Path) -> list[Path]:
    """The bundles in a run, a folder of bundles or an export's folder; those that the gate refused come last.

    Raises:
        InputError: there is neither a bundle nor a run.
    """
    kind = kind_of(model, "run or bundle")
    if kind != "folder":
        raise InputError(f"{model} {'is no folder' if kind else 'does not exist'}; name a run or a bundle")
    run = RunFolder(model)
    found = find_bundles(model) or [*find_bundles(run.bundles), *find_bundles(run.rejected)]
    if not found and kind_of(run.card) is None:
        raise InputError(f"{model} is neither a run (no {CARD}) nor does it hold a bundle; run `fptk export` first")
    return found


def _common_run(models: Sequence[Path]) -> RunFolder | None:
    """The one run that all of these are or stand in; ``None`` where there are several or none."""
    runs = [_run_around(model) for model in models]
    first = runs[0]
    same = first is not None and all(run is not None and run.resolve() == first.resolve() for run in runs)
    return RunFolder(first) if first is not None and same else None


def _run_around(model: Path) -> Path | None:
    """The run that a path is, or that its bundles stand in."""
    if (model / CARD).is_file():
        return model
    parents = model.resolve().parents[:2]
    return next((folder for folder in parents if (folder / CARD).is_file()), None)


def _bench_of(run: RunFolder | None) -> BenchReport | None:
    """A run's own measurements; ``None`` where there are none, or none that this fptk reads."""
    if run is None or kind_of(run.bench) is None:
        return None
    try:
        return _read_bench(run.bench)
    except InputError:
        return None


def _read_bench(path: Path) -> BenchReport:
    """Read what ``fptk bench --json`` wrote.

    Raises:
        InputError: it is missing or something else.
    """
    try:
        found = TypeAdapter(BenchReport).validate_python(read_json(path, "result of fptk bench"))
    except ValidationError as error:
        raise InputError(f"{path} is no result of `fptk bench --json`: {first_fault(error)}") from error
    flags = found.host.get("isa")
    if not (isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)):
        raise InputError(f"{path} is no result of `fptk bench --json`: host.isa is no list of texts")
    return found


def _engines(bundles: Sequence[Bundle], bench: BenchReport | None) -> Iterator[Engine]:
    """Bundles with names of their own and their measurements."""
    several = len({bundle.checkpoint_sha256 for bundle in bundles}) > 1
    taken: dict[str, int] = {}
    for bundle in bundles:
        name = f"{bundle.model} {bundle.checkpoint_sha256[:6]} {bundle.label}" if several else bundle.label
        taken[name] = taken.get(name, 0) + 1
        yield Engine(f"{name} ({taken[name]})" if taken[name] > 1 else name, bundle, _row_of(bundle, bench))


def _row_of(bundle: Bundle, bench: BenchReport | None) -> Row | None:
    key = (bundle.checkpoint_sha256, bundle.target, str(bundle.precision), bundle.graph)
    rows = bench.rows if bench else []
    return next(
        (row for row in rows if (row.checkpoint_sha256, row.target, row.precision, row.graph) == key),
        None,
    )
