"""The two products that one builder serves: TensorRT, which needs a GPU to build, and TensorRT-RTX, which doesn't."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """What differs between TensorRT and TensorRT-RTX.

    Sources: *TensorRT support matrix* and *Migrating from TensorRT 10.x to 11.x*; *TensorRT-RTX: CPU-only AOT* and its
    1.1 release notes (a timing cache forces a GPU query and has no effect on the engine).
    """

    target: str
    """Name of the fptk target."""
    title: str
    """Name in messages."""
    module: str
    """Python module of the wheel."""
    extra: str
    """Extra of fptk that installs it."""
    tool: str
    """Command-line program that rebuilds an engine from its ONNX file."""
    builds_without_gpu: bool
    timing_cache: bool
    """Whether a timing cache changes what is built."""
    minimum: tuple[int, int]
    """Oldest version whose strongly typed networks this builder was written for."""


TENSORRT = Product(
    target="trt",
    title="TensorRT",
    module="tensorrt",
    extra="trt",
    tool="trtexec",
    builds_without_gpu=False,
    timing_cache=True,
    minimum=(10, 12),
)

TENSORRT_RTX = Product(
    target="trt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    extra="trt-rtx",
    tool="tensorrt_rtx",
    builds_without_gpu=True,
    timing_cache=False,
    minimum=(1, 1),
)

PRODUCTS = {product.target: product for product in (TENSORRT, TENSORRT_RTX)}

DEFAULT_SM: tuple[int, ...] = (80, 86, 89, 120)
"""Compute capabilities of a TensorRT-RTX engine unless told otherwise: Ampere (A100 and RTX 30), Ada, Blackwell RTX,
the set that its documentation calls portable. Turing (75) is built apart: an engine for it takes neither float32 nor
INT8 matrix products."""
