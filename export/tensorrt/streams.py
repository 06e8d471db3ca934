"""Chooses the package that the CUDA calls go through: pycuda, or cuda-bindings where pycuda isn't installed."""

from __future__ import annotations

from collections.abc import Callable

from fptk.core.errors import TargetUnavailableError
from fptk.export.tensorrt.bindings_stream import BindingsStream
from fptk.export.tensorrt.pycuda_stream import PycudaStream
from fptk.export.tensorrt.stream import CudaStream

CUDA_PACKAGES = ("pycuda", "cuda-bindings")
"""Distributions that the calls can go through, the first choice first."""

INSTALL_CUDA_PACKAGE = (
    "pip install pycuda (it compiles: nvcc and cuda.h must be there), or pip install cuda-bindings (ready-made)"
)

_STREAMS: tuple[Callable[[int], CudaStream], ...] = (PycudaStream, BindingsStream)


def open_stream(device: int = 0) -> CudaStream:
    """A new stream of GPU ``device``, by the first package that loads.

    Raises:
        TargetUnavailableError: neither does; the message says why and what to install.
    """
    reasons = []
    for kind in _STREAMS:
        try:
            return kind(device)
        except TargetUnavailableError as error:
            reasons.append(str(error))
    raise TargetUnavailableError(f"{'; '.join(reasons)}; run: {INSTALL_CUDA_PACKAGE}")
