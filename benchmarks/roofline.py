"""How close an engine comes to what the processor can do: products in float32, bf16 and int8, and copies in memory."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.benchmarks.latency import TimedCall
from fptk.core.cpu import has_bf16, has_vnni
from fptk.core.errors import missing_package

GEMM_SIDE = 1024
"""Side of the square products whose rates stand for the processor. A float32 operand has 4 MB: the product measures the
kernel, not the call."""

GEMM_MACS = GEMM_SIDE**3

KERNELS = {
    "fp32": "torch.mm, float32",
    "bf16": "torch.mm, bfloat16",
    "int8": "ONNX Runtime MatMulInteger, uint8 x int8 to int32",
}
"""What is timed for each precision."""

LIMITS = {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16", "int8": "int8"}
"""Whose rate limits an engine of a precision. On a CPU, fp16 is the type of the weights, float32 that of products."""

LEAST_BYTES, MOST_BYTES = 128 * 2**20, 512 * 2**20
"""Between so much and so much is copied to measure the memory rate."""

CACHES = 4
"""As many times as large as the last level cache the copy is, within these bounds."""

COPIES = 7
"""Copies whose median is the memory rate, where it is measured alone."""


@dataclass(frozen=True)
class Limits:
    """Rates of this machine that no engine on it can pass."""

    macs_per_s: Mapping[str, float | None]
    """Multiply-adds a second by precision; ``None`` where it was not measured."""
    bytes_per_s: float
    """Bytes a second, read and written, of a copy that no cache holds."""
    notes: Mapping[str, str]
    """Why a rate is missing or low, by precision."""

    def rate_for(self, precision: str) -> float | None:
        """Multiply-adds a second that limit an engine of a precision; ``None`` where they were not measured."""
        return self.macs_per_s.get(LIMITS.get(precision, precision))


def limit_calls(threads: int) -> dict[str, TimedCall]:
    """Calls by name, to be timed in the same interleaved run as the engines; :func:`limits` reads their times.

    There is none for bf16 on a processor without it: an emulation is no limit.

    Raises:
        InputError: torch or onnx is not installed.
    """
    calls = {"fp32": gemm_call(threads)}
    if has_bf16():
        calls["bf16"] = gemm_call(threads, "bfloat16")
    return calls | {"int8": _int8_call(threads), "memory": copy_call(threads)}


def limits(p50_ms: Mapping[str, float]) -> Limits:
    """Rates from the median times of :func:`limit_calls`, in milliseconds."""
    rates = {name: gemm_rate(p50_ms[name]) if name in p50_ms else None for name in KERNELS}
    notes = {}
    if rates["bf16"] is None:
        notes["bf16"] = "this processor has no bf16 arithmetic"
    if not has_vnni():
        notes["int8"] = "this processor has no VNNI: int8 takes several instructions"
    return Limits(rates, copy_rate(p50_ms["memory"]), notes)


def gemm_call(threads: int, dtype: str = "float32") -> TimedCall:
    """One product of two (1024, 1024) matrices by torch's BLAS, in float32 or bfloat16.

    Raises:
        InputError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_package("torch", "export") from error
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    a, b = (torch.rand(GEMM_SIDE, GEMM_SIDE, generator=generator).to(kind) for _ in range(2))
    out = torch.empty(GEMM_SIDE, GEMM_SIDE, dtype=kind)

    def call() -> None:
        before = torch.get_num_threads()
        if before != threads:
            torch.set_num_threads(threads)
        torch.mm(a, b, out=out)
        if before != threads:
            torch.set_num_threads(before)

    return call


def _int8_call(threads: int) -> TimedCall:
    """One product of a (1024, 1024) uint8 matrix with constant int8 weights, summed in int32, by ONNX Runtime.

    Its kernel packs the weights once, as those of an engine are, and has a path for each instruction set.

    Raises:
        InputError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise missing_package("onnx", "export") from error
    import onnxruntime as ort

    generator = np.random.default_rng(0)
    weights = generator.integers(-64, 64, (GEMM_SIDE, GEMM_SIDE), dtype=np.int8)
    a = generator.integers(0, 255, (GEMM_SIDE, GEMM_SIDE), dtype=np.uint8)
    sides = [GEMM_SIDE, GEMM_SIDE]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "int8",
        [helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, sides)],
        [helper.make_tensor_value_info("c", onnx.TensorProto.INT32, sides)],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def call() -> None:
        session.run(None, {"a": a})

    return call


def copy_call(threads: int) -> TimedCall:
    """One copy in memory, far larger than the last level cache, each thread its own part."""
    size = copied_bytes()
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def call() -> None:
        for _ in pool.map(_copy, parts):
            pass

    return call


def _copy(part: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]) -> None:
    np.copyto(*part)


@functools.cache
def copied_bytes() -> int:
    """Size of the memory that :func:`copy_call` copies."""
    return min(max(LEAST_BYTES, CACHES * last_level_cache()), MOST_BYTES)


def last_level_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache that the system tells of; 0 where it tells of none."""
    sizes = [path.read_text(encoding="ascii").strip() for path in folder.glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def copy_rate(p50_ms: float) -> float:
    """Bytes a second of :func:`copy_call`, from its median time in milliseconds: what is read and what is written."""
    return 2 * copied_bytes() / (p50_ms / 1e3)


def measure_memory(threads: int) -> float:
    """Bytes a second of a copy in memory, measured alone."""
    call = copy_call(threads)
    call()
    times = []
    for _ in range(COPIES):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return copy_rate(statistics.median(times))


def gemm_rate(p50_ms: float) -> float:
    """Multiply-adds a second of a product, from its median time in milliseconds."""
    return GEMM_MACS / (p50_ms / 1e3)


def roofline_fraction(macs: int, p50_ms: float, rate: float) -> float:
    """Share of a rate that an engine reaches: (macs / rate) / latency, of one image."""
    return macs / rate / (p50_ms / 1e3)
