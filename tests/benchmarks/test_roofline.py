"""The roofline: the GEMM's own time is its limit."""

from __future__ import annotations

import numpy as np
import pytest

from fptk.benchmarks.latency import LatencyPlan, time_in_turns
from fptk.benchmarks.roofline import GEMM_MACS, gemm_call, gemm_rate, roofline_fraction


def test_gemm_reaches_its_own_roofline() -> None:
    (times,) = time_in_turns([gemm_call(1)], LatencyPlan(rounds=2, calls=2, warmup=1))
    p50 = float(np.median(times))
    assert roofline_fraction(GEMM_MACS, p50, gemm_rate(p50)) == pytest.approx(1)
    assert roofline_fraction(GEMM_MACS // 2, p50, gemm_rate(p50)) == pytest.approx(0.5)
