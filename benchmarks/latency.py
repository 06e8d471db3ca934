"""Latency of several sessions on one machine, measured in interleaved rounds.

A processor's speed drifts (frequency, neighbours, heat) by more than engines differ. So the sessions take turns,
A B C, A B C …, for many short turns, and a drift falls on all of them alike. What is timed is one synchronous call:
uint8 images in host memory in, label map in host memory out, nothing left running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fptk.dataset import UInt8Array
from fptk.session import Session


@dataclass(frozen=True)
class LatencyPlan:
    """How long and how often to measure."""

    rounds: int = 15
    """Turns that each session takes."""
    calls: int = 4
    """Timed calls in a turn; one untimed call goes before them, since the session before left the caches full of
    its own data and its thread pool may still be spinning."""
    warmup: int = 3
    """Untimed calls of each session before the first round."""

    @property
    def samples(self) -> int:
        """Timed calls of each session."""
        return self.rounds * self.calls


@dataclass(frozen=True)
class Latency:
    """Times of one session.

    Attributes:
        milliseconds: float64 (samples,), one per timed call, in the order of measurement.
        batch: images per call.
    """

    milliseconds: npt.NDArray[np.float64]
    batch: int

    def percentile(self, q: float) -> float:
        """Milliseconds that ``q`` percent of the calls stayed under (linear interpolation)."""
        return float(np.percentile(self.milliseconds, q))

    @property
    def fps(self) -> float:
        """Images a second at the median call: the mean would let one hiccup of the machine decide."""
        return 1e3 * self.batch / self.percentile(50)


def measure(
    sessions: Sequence[Session],
    image: UInt8Array,
    *,
    batch: int = 1,
    plan: LatencyPlan | None = None,
    on_round: Callable[[int], None] | None = None,
) -> list[Latency]:
    """Measure the sessions against each other.

    Args:
        sessions: at least one; each sees ``image`` through its own preprocessing, which is not timed.
        image: uint8 (H, W, 3) RGB photograph of any size.
        batch: copies of the image in one call.
        plan: rounds and calls; ``None`` takes the defaults.
        on_round: called with the number of finished rounds.

    Returns:
        One :class:`Latency` per session, in order.
    """
    plan = plan or LatencyPlan()
    inputs = [np.repeat(session.spec.apply(image)[None], batch, axis=0) for session in sessions]
    for session, images in zip(sessions, inputs, strict=True):
        for _ in range(plan.warmup):
            session(images)
    times: list[list[float]] = [[] for _ in sessions]
    for done in range(plan.rounds):
        for session, images, record in zip(sessions, inputs, times, strict=True):
            session(images)
            for _ in range(plan.calls):
                start = time.perf_counter_ns()
                session(images)
                record.append((time.perf_counter_ns() - start) / 1e6)
        if on_round:
            on_round(done + 1)
    return [Latency(np.array(record), batch) for record in times]
