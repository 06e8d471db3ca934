"""Sessions measured against each other: accuracy in one pass over the images, speed in interleaved rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fptk.benchmarks.latency import Latency, LatencyPlan, as_call, time_in_turns
from fptk.benchmarks.photo import PhotoSplit, split_in_turns
from fptk.benchmarks.roofline import Limits, limit_calls, limits
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.evaluation import evaluate_all
from fptk.core.metrics import Scores
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session


@dataclass(frozen=True)
class MeasurePlan:
    """What to measure of each session."""

    dataset: FaceParsingDataset | None = None
    """Score every session on these images; ``None`` scores none."""
    latency: LatencyPlan | None = field(default_factory=LatencyPlan)
    """``None`` times none."""
    batch: int = 1
    """Images in one timed call."""
    transfers: bool = True
    """Count the copies to and from a GPU."""
    limit_threads: int | None = None
    """Time products and a copy in memory with so many threads in the same interleaved run; ``None`` leaves them out."""
    photo: UInt8Array | None = None
    """Time the way of this photograph, uint8 (H, W, 3) RGB, stage by stage; ``None`` leaves it out."""


@dataclass(frozen=True)
class Measurement:
    """Figures of one session; ``None`` is "not measured"."""

    scores: Scores | None = None
    latency: Latency | None = None
    photo: PhotoSplit | None = None


@dataclass(frozen=True)
class Measurements:
    """Figures of several sessions from one run."""

    sessions: list[Measurement]
    """In the order of the sessions."""
    limits: Limits | None = None
    """Rates of the machine; ``None`` where they were left out."""


def measure(
    sessions: Sequence[Session], image: UInt8Array, plan: MeasurePlan, listener: Listener = SILENT
) -> Measurements:
    """Score and time sessions on the same images, in the same rounds.

    Args:
        sessions: loaded engines; there may be none.
        image: uint8 (H, W, 3) RGB photograph of any size that the speed is measured with.
        plan: what to measure.
        listener: is told how many images are scored and how many rounds are done.

    Raises:
        InputError: a file of the data set is damaged, or torch or onnx is not installed for the limits.
    """
    if not sessions:
        return Measurements([])
    scores: list[Scores | None] = [None] * len(sessions)
    if plan.dataset is not None:
        scores = [*evaluate_all(sessions, plan.dataset, listener=listener)]
    if plan.latency is None:
        return Measurements([Measurement(each) for each in scores])
    calls = [as_call(session, image, plan.batch, transfers=plan.transfers) for session in sessions]
    bounds = limit_calls(plan.limit_threads) if plan.limit_threads is not None else {}
    times = time_in_turns([*calls, *bounds.values()], plan.latency, listener)
    medians = [Latency(each).percentile(50) for each in times[len(calls) :]]
    found = limits(dict(zip(bounds, medians, strict=True))) if bounds else None
    figures = zip(scores, times[: len(calls)], _splits(sessions, plan, listener), strict=True)
    return Measurements([Measurement(each, Latency(ms, plan.batch), split) for each, ms, split in figures], found)


def _splits(sessions: Sequence[Session], plan: MeasurePlan, listener: Listener) -> Sequence[PhotoSplit | None]:
    if plan.photo is None or plan.latency is None:
        return [None] * len(sessions)
    given = (plan.photo, plan.latency)
    return split_in_turns(sessions, *given, batch=plan.batch, transfers=plan.transfers, listener=listener)
