"""The latency of one engine in about a second: what an export leaves in a bundle, and a device holds its own against.

Figures of two machines say how the machines differ. Engines are compared by :mod:`fptk.benchmarks.bench`, in turns.
"""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from fptk.benchmarks.latency import Latency, LatencyPlan, as_call, time_in_turns
from fptk.core.dataset import UInt8Array
from fptk.core.host import usable_cores
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session

SECONDS = 1.0
"""What the timed calls take together, about."""
FEWEST, MOST = 5, 200
"""Timed calls of one measurement."""


class LatencyFigures(BaseModel):
    """Latency of one synchronous call, uint8 image in, label map out, with its conditions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: NonNegativeFloat
    """Median, milliseconds."""
    p90_ms: NonNegativeFloat
    """Milliseconds that 90 % of the calls stayed under."""
    calls: PositiveInt
    """Timed calls."""
    batch: PositiveInt = 1
    """Images of one call."""
    threads: PositiveInt | None
    """CPU threads of one inference; ``None`` is the engine's default."""
    cores: PositiveInt
    """Cores that the process could use."""


def time_quickly(
    session: Session, image: UInt8Array, *, threads: int | None, listener: Listener = SILENT
) -> LatencyFigures:
    """Time one engine for about :data:`SECONDS`, after two untimed calls.

    Args:
        session: the loaded engine.
        image: uint8 (H, W, 3) RGB of any size; preprocessing is not timed.
        threads: CPU threads that the session was given.
        listener: hears that something is timed.
    """
    call = as_call(session, image)
    call()
    start = time.perf_counter()
    call()
    calls = max(FEWEST, min(MOST, round(SECONDS / max(1e-6, time.perf_counter() - start))))
    (times,) = time_in_turns([call], LatencyPlan(rounds=1, calls=calls, warmup=0), listener)
    latency = Latency(times)
    return LatencyFigures(
        p50_ms=latency.percentile(50),
        p90_ms=latency.percentile(90),
        calls=calls,
        threads=threads,
        cores=usable_cores(),
    )
