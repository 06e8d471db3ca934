"""Latency of several sessions on one machine, measured in interleaved rounds.

A processor's speed drifts (frequency, neighbours, heat) by more than engines differ. So the engines take many short
turns, A B C, A B C …, and a drift hits all of them alike. Each timing is one synchronous call: uint8 images in host
memory go in, label maps in host memory come out, and nothing is left running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fptk.core.dataset import UInt8Array
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session

T = TypeVar("T")

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
    turns = in_turns([_turn(call, plan.calls) for call in calls], plan.rounds, listener)
    return [np.concatenate(taken) for taken in turns]


def in_turns(
    turns: Sequence[Callable[[], T]], rounds: int, listener: Listener = SILENT, what: str = "timing, in turns"
) -> list[list[T]]:
    """Let each take its turn, A B C A B C ….

    Args:
        turns: one function for each that takes turns.
        rounds: how often.
        listener: is told how many rounds are done.
        what: description for the listener.

    Returns:
        What the turns of each gave, in order.
    """
    given: list[list[T]] = [[] for _ in turns]
    with listener.counting(what, rounds, still=True) as update:
        for done in range(1, rounds + 1):
            for turn, kept in zip(turns, given, strict=True):
                kept.append(turn())
            update(done)
    return given


def _turn(call: TimedCall, calls: int) -> Callable[[], npt.NDArray[np.float64]]:
    """A turn of one engine, ready to be called: float64 (calls,) milliseconds, after one call that isn't timed."""

    def turn() -> npt.NDArray[np.float64]:
        times = np.empty(calls)
        call()
        for number in range(calls):
            start = time.perf_counter_ns()
            own = call()
            times[number] = (time.perf_counter_ns() - start) / 1e6 if own is None else own
        return times

    return turn


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
