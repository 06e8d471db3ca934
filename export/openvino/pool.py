"""An OpenVINO engine that works on several requests at once, as ``benchmark_app -hint throughput`` runs it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from fptk.benchmarks.throughput import Concurrency, RequestPool, Spans
from fptk.calibration.openvino_cpu import compile_model
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec


class OpenVinoPool(RequestPool):
    """OpenVINO's ``AsyncInferQueue``, with the streams and requests that its CPU plugin chooses for throughput.

    Args:
        path: ``.xml`` or ONNX file, which :class:`fptk.export.targets.openvino.OpenVinoSession` has checked.
        spec: preprocessing of the images.
        threads: CPU threads of all streams together; ``None`` leaves OpenVINO its default.
        precision_hint: one of :data:`fptk.calibration.openvino_cpu.PRECISION_HINTS`; pinned.

    Raises:
        InputError: OpenVINO cannot read the file.
        TargetUnavailableError: openvino is not installed, or the processor has no bf16.
    """

    def __init__(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str = "f32"
    ) -> None:
        try:
            compiled = compile_model(path, threads=threads, precision_hint=precision_hint, throughput=True)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot load {path}: {last_line(error)}") from error
        from openvino import AsyncInferQueue

        self._path = path
        self._queue: Any = AsyncInferQueue(compiled)
        streams, cores = (int(compiled.get_property(name)) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS"))
        super().__init__(spec, Concurrency(requests=len(self._queue), streams=streams, threads=cores))

    def run(self, images: UInt8Array, count: int) -> Spans:
        spans = np.empty((count, 2), np.int64)

        def ended(request: Any, number: int) -> None:
            end = time.perf_counter_ns()
            spans[number] = end - round(1e6 * request.latency), end

        self._queue.set_callback(ended)
        try:
            for number in range(count):
                self._queue.start_async([images], number, share_inputs=True)
            self._queue.wait_all()
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot run {self._path}: {last_line(error)}") from error
        return spans

    def close(self) -> None:
        self._queue = None


def last_line(error: Exception) -> str:
    """What OpenVINO says went wrong; the lines before tell where in its own sources."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
