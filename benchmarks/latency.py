"""Latency of several sessions on one machine, measured in interleaved rounds.

A processor's speed drifts (frequency, neighbours, heat) by more than engines differ. So the engines take many short
turns, A B C, A B C …, and a drift hits all of them alike. Each timing is one synchronous call: uint8 images in host
memory go in, label maps in host memory come out, and nothing is left running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fptk.core.dataset import UInt8Array
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session

TimedCall = Callable[[], float | None]
"""Does its work and returns when it is done: milliseconds by its own clock, or ``None`` to be timed from outside."""


@dataclass(frozen=True)
class LatencyPlan:
    """How long and how often to measure."""

    rounds: int = 15
    """Turns that each call takes."""
    calls: int = 4
    """Timed calls in a turn. One untimed call goes first: the engine before filled the caches with its own data, and
    its threads may still be spinning."""
    warmup: int = 3
    """Untimed calls of each engine before the first round."""

    @property
    def samples(self) -> int:
        """Timed calls of each engine."""
        return self.rounds * self.calls


@dataclass(frozen=True)
class Latency:
    """Times of one engine.

    Attributes:
        milliseconds: float64 (samples,), one per timed call, in the order of measurement.
        batch: images per call.
    """

    milliseconds: npt.NDArray[np.float64]
    batch: int = 1

    def percentile(self, q: float) -> float:
        """Milliseconds that ``q`` percent of the calls stayed under (linear interpolation)."""
        return float(np.percentile(self.milliseconds, q))

    @property
    def fps(self) -> float:
        """Images a second at the median call; one hiccup of the machine would decide a mean."""
        return 1e3 * self.batch / self.percentile(50)


def time_in_turns(
    calls: Sequence[TimedCall], plan: LatencyPlan | None = None, listener: Listener = SILENT
) -> list[npt.NDArray[np.float64]]:
    """Time calls against each other.

    Args:
        calls: at least one.
        plan: rounds and calls; ``None`` takes the defaults.
        listener: is told how many rounds are done.

    Returns:
        float64 (samples,) milliseconds of each call, in order.
    """
    plan = plan or LatencyPlan()
    for call in calls:
        for _ in range(plan.warmup):
            call()
    times: list[list[float]] = [[] for _ in calls]
    with listener.counting("timing, in turns", plan.rounds, still=True) as update:
        for done in range(1, plan.rounds + 1):
            for call, record in zip(calls, times, strict=True):
                call()
                for _ in range(plan.calls):
                    start = time.perf_counter_ns()
                    own = call()
                    record.append((time.perf_counter_ns() - start) / 1e6 if own is None else own)
            update(done)
    return [np.array(record) for record in times]


def as_call(session: Session, image: UInt8Array, batch: int = 1, *, transfers: bool = True) -> TimedCall:
    """One inference of ``session``, ready to be timed.

    Args:
        session: loaded engine.
        image: uint8 (H, W, 3) RGB photograph of any size; preprocessing is done here, once, and not timed.
        batch: copies of the image in one call.
        transfers: count the copies to and from a device; without them, an engine with a clock on its device is timed by
            that (:meth:`fptk.core.session.Session.compute_ms`).
    """
    images = np.repeat(session.spec.apply(image)[None], batch, axis=0)

    def call() -> float | None:
        session(images)
        return None if transfers else session.compute_ms()

    return call
