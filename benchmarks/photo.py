"""Where the time of one photograph goes: resizing it, the engine, and bringing the labels to its size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fptk.benchmarks.latency import LatencyPlan, in_turns
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import resize_labels
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session


@dataclass(frozen=True)
class PhotoSplit:
    """Median milliseconds of one call's stages; the call's batch is filled with copies of the photograph."""

    preprocess_ms: float
    """From the decoded photograph to the engine's input: the resize to the engine's size."""
    infer_ms: float
    """The engine's call."""
    postprocess_ms: float
    """From the engine's labels to labels of the photograph's size, by nearest neighbour."""
    whole_ms: float
    """All three; the median of the sums, which need not be the sum of the medians."""


def enlarged(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """``image``, uint8 (H, W, 3), in the size of a photograph, (width, height). The stages of a real one take alike."""
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def split_in_turns(
    sessions: Sequence[Session],
    photo: UInt8Array,
    plan: LatencyPlan,
    *,
    batch: int = 1,
    transfers: bool = True,
    listener: Listener = SILENT,
) -> list[PhotoSplit]:
    """Time the stages of each session on one photograph, in interleaved rounds.

    Args:
        sessions: loaded engines.
        photo: uint8 (H, W, 3) RGB, decoded; decoding is not timed.
        plan: rounds; each turn is one call that isn't timed and one that is.
        batch: copies of the photograph in one call.
        transfers: as for :func:`fptk.benchmarks.latency.as_call`.
        listener: is told how many rounds are done.

    Returns:
        The split of each session, in order.
    """
    turns = [_turn(session, [photo] * batch, transfers=transfers) for session in sessions]
    taken = in_turns(turns, plan.rounds, listener, "timing a photograph, in turns")
    return [_split(np.stack(each)) for each in taken]


def _split(stages: npt.NDArray[np.float64]) -> PhotoSplit:
    """The medians of (rounds, 3) milliseconds."""
    preprocess, infer, postprocess = np.median(stages, axis=0).tolist()
    return PhotoSplit(preprocess, infer, postprocess, float(np.median(stages.sum(axis=1))))


def _turn(session: Session, photos: list[UInt8Array], *, transfers: bool) -> Callable[[], npt.NDArray[np.float64]]:
    """A turn of one session, ready to be called: float64 (3,) milliseconds of its second pass."""

    def once() -> npt.NDArray[np.float64]:
        clock = [time.perf_counter_ns()]
        images = np.stack([session.spec.apply(photo) for photo in photos])
        clock.append(time.perf_counter_ns())
        labels = session(images)
        clock.append(time.perf_counter_ns())
        for each, photo in zip(labels, photos, strict=True):
            resize_labels(each, photo.shape[:2])
        clock.append(time.perf_counter_ns())
        stages = np.diff(clock) / 1e6
        own = None if transfers else session.compute_ms()
        if own is not None:
            stages[1] = own
        return stages

    def turn() -> npt.NDArray[np.float64]:
        once()
        return once()

    return turn
