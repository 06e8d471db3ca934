"""How close an engine comes to what the processor can do: the multiply-adds of its graph against the GEMM rate."""

from __future__ import annotations

from fptk.benchmarks.latency import TimedCall
from fptk.core.errors import missing_package

GEMM_SIDE = 1024
"""Side of the square float32 product whose rate stands for the processor. An operand has 4 MB: the product measures the
kernel, not the call."""

GEMM_MACS = GEMM_SIDE**3


def gemm_call(threads: int) -> TimedCall:
    """One float32 product of two (1024, 1024) matrices by torch's BLAS, to be timed in the same interleaved run.

    Raises:
        InputError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_package("torch", "export") from error
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(GEMM_SIDE, GEMM_SIDE, generator=generator) for _ in range(2))
    out = torch.empty(GEMM_SIDE, GEMM_SIDE)

    def call() -> None:
        before = torch.get_num_threads()
        if before != threads:
            torch.set_num_threads(threads)
        torch.mm(a, b, out=out)
        if before != threads:
            torch.set_num_threads(before)

    return call


def gemm_rate(p50_ms: float) -> float:
    """Multiply-adds a second of :func:`gemm_call`, from its median time in milliseconds."""
    return GEMM_MACS / (p50_ms / 1e3)


def roofline_fraction(macs: int, p50_ms: float, rate: float) -> float:
    """Share of the GEMM rate that an engine reaches: (macs / rate) / latency, of one image."""
    return macs / rate / (p50_ms / 1e3)
