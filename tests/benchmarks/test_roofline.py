"""The roofline: a product's own time is its limit, each precision has its own, and a copy gives the memory rate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fptk.benchmarks import roofline
from fptk.benchmarks.latency import LatencyPlan, time_in_turns
from fptk.benchmarks.roofline import (
    GEMM_MACS,
    Limits,
    gemm_call,
    gemm_rate,
    last_level_cache,
    limit_calls,
    limits,
    roofline_fraction,
)
from fptk.core.errors import InputError


def test_gemm_reaches_its_own_roofline() -> None:
    (times,) = time_in_turns([gemm_call(1)], LatencyPlan(rounds=2, calls=2, warmup=1))
    p50 = float(np.median(times))
    assert roofline_fraction(GEMM_MACS, p50, gemm_rate(p50)) == pytest.approx(1)
    assert roofline_fraction(GEMM_MACS // 2, p50, gemm_rate(p50)) == pytest.approx(0.5)


@pytest.fixture
def small_copies(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a copy that a test has time for."""
    monkeypatch.setattr(roofline, "copied_bytes", lambda: 2**20)
    return 2**20


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("vnni", [True, False])
def test_each_precision_has_a_rate_or_a_reason(
    bf16: bool, vnni: bool, small_copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    monkeypatch.setattr(roofline, "has_bf16", lambda: bf16)
    monkeypatch.setattr(roofline, "has_vnni", lambda: vnni)
    calls = limit_calls(1)
    assert [*calls] == ["fp32", *["bf16"] * bf16, "int8", "memory"]
    calls["int8"]()
    calls["memory"]()
    found = limits(dict.fromkeys(calls, 10.0))
    rate = 100 * GEMM_MACS
    assert found.macs_per_s == {"fp32": rate, "bf16": rate if bf16 else None, "int8": rate}
    assert found.bytes_per_s == 2 * small_copies * 100
    assert [*found.notes] == [*["bf16"] * (not bf16), *["int8"] * (not vnni)]


def test_an_engine_is_held_against_the_rate_of_its_own_precision() -> None:
    found = Limits({"fp32": 1.0, "bf16": None, "int8": 3.0}, 1.0, {})
    assert [found.rate_for(each) for each in ("fp32", "fp16", "bf16", "int8")] == [1.0, 1.0, None, 3.0]


def test_the_copy_is_whole_and_by_every_thread(small_copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = []
    zeros = np.zeros
    monkeypatch.setattr(np, "zeros", lambda *given: targets.append(zeros(*given)) or targets[-1])
    roofline.copy_call(3)()
    (target,) = targets
    assert target.nbytes == small_copies
    assert target.all()


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_a_missing_package_ends_in_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"^the package '{package}' is not installed; run: pip install"):
        limit_calls(1)


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "32M\n", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size)
    assert last_level_cache(tmp_path) == 32 * 2**20
    assert last_level_cache(tmp_path / "none") == 0
