"""The engines of a table's networks: built and scored one network after the other, timed all in one interleaved run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fptk.benchmarks.latency import Latency, LatencyPlan, as_call, time_in_turns
from fptk.bundle import MANIFEST, Bundle, open_bundle, read_bundle
from fptk.calibration.gate import Verdict
from fptk.console import counting, log
from fptk.data.synthetic import draw_face
from fptk.errors import InputError, TargetUnavailableError
from fptk.export.targets.base import Precision
from fptk.files import sha256_file
from fptk.host import usable_cores
from fptk.pipeline import ExportPlan, export_bundles, gate_policy
from fptk.runs import BUNDLES, REJECTED, Source

PRECISIONS = (Precision.FP32, Precision.INT8)


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
    """Of the accuracy gate, as :attr:`fptk.bundle.Bundle.verdict`."""
    fps: float | None
    """Images a second at the median latency of one synchronous call; ``None`` for an engine that cannot run here."""


def build_engines(source: Source, targets: Sequence[str], command: str) -> list[Path]:
    """Bundles of every target and precision; those that are there already for these weights are kept.

    Returns:
        Bundle folders, in the order of targets and precisions. Engines that the gate refused are among them.
    """
    wanted = [(target, precision) for target in targets for precision in PRECISIONS]
    current = sha256_file(source.weights)
    missing = [pair for pair in wanted if _find(source, pair, current) is None]
    for target in dict.fromkeys(target for target, _ in missing):
        section = source.recipe.export
        plan = ExportPlan(
            targets=(target,),
            precisions=tuple(precision for name, precision in missing if name == target),
            out=source.folder,
            command=command,
            calib_size=section.calibration_images,
            gate=gate_policy(section, None, None),
        )
        for outcome in export_bundles(source, plan):
            log.print(f"{source.recipe.name}: {outcome.message}", markup=False, soft_wrap=True)
    found = [_find(source, pair, current) for pair in wanted]
    return [folder for folder in found if folder is not None]


def _find(source: Source, pair: tuple[str, Precision], checkpoint_sha256: str) -> Path | None:
    """The bundle of these weights, passed or refused."""
    for home in (BUNDLES, REJECTED):
        folder = source.folder / home / f"{pair[0]}-{pair[1]}"
        if (folder / MANIFEST).is_file() and read_bundle(folder).checkpoint_sha256 == checkpoint_sha256:
            return folder
    return None


def measure_engines(networks: Sequence[Sequence[Path]], plan: LatencyPlan, threads: int | None) -> list[list[Engine]]:
    """Scores of every engine from its bundle, and speeds of all that run here from one interleaved run.

    Args:
        networks: bundle folders of each network.
        plan: rounds and calls.
        threads: CPU threads of one inference; ``None`` for all cores.
    """
    folders = [folder for network in networks for folder in network]
    threads = threads or usable_cores()
    speeds: dict[Path, float] = {}
    with ExitStack() as stack:
        calls = {}
        for folder in folders:
            try:
                bundle, session = open_bundle(folder, threads=threads)
            except (TargetUnavailableError, InputError):
                continue  # the row says what it is
            image = draw_face(0, 0, bundle.preprocess.size)[0]
            calls[folder] = as_call(stack.enter_context(session), image)
        if calls:
            with counting("timing all engines, in turns", plan.rounds, animated=False) as on_round:
                times = time_in_turns(list(calls.values()), plan, on_round)
            speeds = {folder: Latency(ms).fps for folder, ms in zip(calls, times, strict=True)}
    return [[_engine(read_bundle(folder), speeds.get(folder)) for folder in network] for network in networks]


def _engine(bundle: Bundle, fps: float | None) -> Engine:
    evaluation = bundle.evaluation
    miou = float(evaluation.engine["miou"]) if evaluation else None
    verdict = Verdict.model_validate(bundle.gate) if bundle.gate and "classes" in bundle.gate else None
    judged = [each for each in verdict.classes if each.judged] if verdict else []
    worst = max(judged, key=lambda each: each.drop or 0.0, default=None)
    return Engine(
        target=bundle.target,
        precision=str(bundle.precision),
        miou=miou,
        delta_miou=miou - float(evaluation.reference["miou"]) if evaluation and miou is not None else None,
        worst_class=worst.name if worst else None,
        worst_delta=-worst.drop / 100 if worst and worst.drop is not None else None,
        simulated=bool(evaluation and evaluation.simulated_by),
        verdict=bundle.verdict,
        fps=fps,
    )
