"""The engines of a table's networks: built and scored one network after the other, timed all in one interleaved run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fptk.benchmarks.latency import LatencyPlan
from fptk.benchmarks.report import Row
from fptk.core.files import sha256_file
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import MANIFEST, Bundle, read_bundle
from fptk.export.exporter import export
from fptk.export.plan import ExportPlan
from fptk.export.targets.registry import get_target
from fptk.runs.folder import RunFolder
from fptk.runs.source import ModelSource
from fptk.workflows.bench import BenchPlan, bench


@dataclass(frozen=True)
class Engine:
    """One engine of one network. Scores are fractions of 1."""

    target: str
    precision: str
    miou: float | None
    delta_miou: float | None
    """mIoU minus that of the network in PyTorch FP32 on the same images."""
    worst_class: str | None
    """Of the classes that the gate judges, the one that lost most IoU to the reference."""
    worst_delta: float | None
    """What it lost (negative)."""
    simulated: bool
    """Scored by ONNX Runtime on the engine's graph, as this host cannot run the engine."""
    verdict: str
    """Of the accuracy gate at export, as :attr:`fptk.export.bundle.Bundle.verdict`."""
    fps: float | None
    """Images a second at the median latency of one synchronous call; ``None`` for an engine that cannot run here."""
    judged_on: str | None = None
    """Processor that scores and verdict are from; ``None`` where that is this machine, with this version of the engine.
    """


def precisions_of(target: str) -> tuple[Precision, ...]:
    """FP32 and INT8, and between them BF16 for a target that has it on a processor that computes in it."""
    engine = get_target(target)
    has_bf16 = Precision.BF16 in engine.precisions and engine.cannot_compute(Precision.BF16) is None
    return (Precision.FP32, *([Precision.BF16] if has_bf16 else []), Precision.INT8)


def build_engines(source: ModelSource, targets: Sequence[str], command: str, listener: Listener = SILENT) -> list[Path]:
    """Bundles of every target and precision; those that are there already for these weights are kept.

    Returns:
        Bundle folders, in the order of targets and precisions. Engines that the gate refused are among them.
    """
    plan = ExportPlan.of_recipe(source.recipe.export, out=source.folder, command=command)
    wanted = [(target, precision) for target in targets for precision in precisions_of(target)]
    names = [plan.bundle_name(get_target(target), precision) for target, precision in wanted]
    current = sha256_file(source.weights)
    missing = [pair for pair, name in zip(wanted, names, strict=True) if _find(source, name, current) is None]
    for target in dict.fromkeys(target for target, _ in missing):
        precisions = tuple(precision for name, precision in missing if name == target)
        for bundle in export(source, replace(plan, targets=(target,), precisions=precisions), listener):
            listener.say(f"{source.recipe.name}: {bundle.message}")
    found = [_find(source, name, current) for name in names]
    return [folder for folder in found if folder is not None]


def _find(source: ModelSource, name: str, checkpoint_sha256: str) -> Path | None:
    """The bundle of this name and these weights, passed or refused."""
    run = RunFolder(source.folder)
    for home in (run.bundles, run.rejected):
        folder = home / name
        if (folder / MANIFEST).is_file() and read_bundle(folder).checkpoint_sha256 == checkpoint_sha256:
            return folder
    return None


def measure_engines(
    networks: Sequence[Sequence[Path]], plan: LatencyPlan, threads: int, listener: Listener = SILENT
) -> list[list[Engine]]:
    """Scores of every engine from its bundle, and speeds of all that run here from one interleaved run.

    Args:
        networks: bundle folders of each network.
        plan: rounds and calls.
        threads: CPU threads of one inference.
        listener: is told how the work goes on.
    """
    folders = [folder for network in networks for folder in network]
    if not folders:
        return [[] for _ in networks]
    image = draw_face(0, 0, read_bundle(folders[0]).preprocess.size)[0]
    report = bench(folders, image, BenchPlan(threads=threads, latency=plan, memory=False), listener)
    engines = {folder: _engine(row, read_bundle(folder)) for folder, row in zip(folders, report.rows, strict=True)}
    return [[engines[folder] for folder in network] for network in networks]


def _engine(row: Row, bundle: Bundle) -> Engine:
    verdict = bundle.judged
    judged = [each for each in verdict.classes if each.judged] if verdict else []
    worst = max(judged, key=lambda each: each.drop or 0.0, default=None)
    return Engine(
        target=row.target,
        precision=row.precision,
        miou=row.miou,
        delta_miou=row.delta_miou,
        worst_class=worst.name if worst else None,
        worst_delta=-worst.drop / 100 if worst and worst.drop is not None else None,
        simulated=row.accuracy == "simulated",
        verdict=row.verdict,
        fps=row.fps,
        judged_on=None if row.holds_here else row.measured_on,
    )
