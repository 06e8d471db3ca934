"""Runs an engine on the GPU as a :class:`~fptk.core.session.Session`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.product import Product
from fptk.export.tensorrt.stream import CudaStream

_loggers: dict[str, Any] = {}


@dataclass(frozen=True)
class GpuTimes:
    """GPU time of the stages of one call, milliseconds, by CUDA events.

    The names of ``trtexec``: upload is its *H2D Latency*, compute its *GPU Compute Time*, download its *D2H Latency*;
    their sum is its *Latency*.
    """

    upload: float
    compute: float
    download: float

    def total(self, *, transfers: bool) -> float:
        """Milliseconds with or without the copies to and from the GPU."""
        return self.compute + (self.upload + self.download if transfers else 0.0)


class TensorRTSession(Session):
    """An engine with its buffers: two pinned on the host, two on the GPU, allocated once for the largest batch.

    Args:
        name: what tables call it.
        spec: preprocessing of the images.
        card: names, size and batches of the engine.
        context: TensorRT's ``IExecutionContext``.
        stream: the CUDA stream to run on; closed with the session.
        capture: launch the engine as one captured graph, which spares the host a launch for every kernel.

    Raises:
        InputError: the engine's input or output is not uint8, or a graph can't be captured.
    """

    def __init__(
        self,
        name: str,
        spec: PreprocessSpec,
        card: EngineCard,
        context: Any,
        stream: CudaStream,
        *,
        capture: bool = False,
    ) -> None:
        super().__init__(name, spec)
        self.gpu_times: GpuTimes | None = None
        """GPU times of the last call, summed over its batches; ``None`` before the first."""
        self._card = card
        self._context = context
        self._stream = stream
        self._capture = capture
        self._graphs: dict[int, Callable[[], None]] = {}
        self._batch = 0
        height, width = spec.size
        largest = card.batch[1]
        with stream.current():
            self._host_images = stream.pinned(largest * height * width * 3).reshape(largest, height, width, 3)
            self._host_labels = stream.pinned(largest * height * width).reshape(largest, height, width)
            self._images = stream.allocate(self._host_images.nbytes)
            self._labels = stream.allocate(self._host_labels.nbytes)
            self._events = [stream.event() for _ in range(4)]
            context.set_tensor_address(card.input_name, self._images)
            context.set_tensor_address(card.output_name, self._labels)

    def _infer(self, images: UInt8Array) -> UInt8Array:
        labels = np.empty(images.shape[:3], np.uint8)
        times = np.zeros(3)
        with self._stream.current():
            for start, stop in self._batches(len(images)):
                times += self._run(images[start:stop], labels[start:stop])
        self.gpu_times = GpuTimes(*times.tolist())
        return labels

    def _batches(self, count: int) -> Iterator[tuple[int, int]]:
        """Cut ``count`` images into batches that the engine takes."""
        smallest, largest = self._card.batch
        rest = count % largest
        if rest and rest < smallest:
            raise ValueError(f"{self.name}: the engine takes batches of {smallest} to {largest}, got {count} images")
        for start in range(0, count, largest):
            yield start, min(start + largest, count)

    def _run(self, images: UInt8Array, labels: UInt8Array) -> tuple[float, float, float]:
        count = len(images)
        host_images, host_labels = self._host_images[:count], self._host_labels[:count]
        np.copyto(host_images, images)
        self._prepare(count)
        begin, uploaded, computed, done = self._events
        begin.record()
        self._stream.upload(self._images, host_images.reshape(-1))
        uploaded.record()
        self._launch(count)
        computed.record()
        self._stream.download(host_labels.reshape(-1), self._labels)
        done.record()
        self._stream.synchronise()
        np.copyto(labels, host_labels)
        return uploaded.since(begin), computed.since(uploaded), done.since(computed)

    def _prepare(self, count: int) -> None:
        """Tell the engine the batch; where graphs are asked for, capture one the first time a batch is seen."""
        if count != self._batch:
            shape = (count, *self.spec.size, 3)
            if not self._context.set_input_shape(self._card.input_name, shape):
                raise RuntimeError(f"{self.name}: the engine refuses the input shape {shape}")
            self._batch = count
        if self._capture and count not in self._graphs:
            self._enqueue()  # TensorRT allocates on the first run with a shape, which a capture forbids
            self._stream.synchronise()
            self._graphs[count] = self._stream.capture(self._enqueue)

    def _launch(self, count: int) -> None:
        launch = self._graphs.get(count)
        if launch is None:
            self._enqueue()
        else:
            launch()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError(f"{self.name}: TensorRT could not enqueue the engine")

    def compute_ms(self) -> float | None:
        """GPU time of the last call without the copies, what ``trtexec`` calls *GPU Compute Time*."""
        return self.gpu_times.total(transfers=False) if self.gpu_times else None

    def close(self) -> None:
        """Free the GPU's memory, the engine and the stream."""
        if self._context is None:
            return
        self._graphs.clear()
        with self._stream.current():  # events, pinned memory and the engine are freed in their own context
            self._events.clear()
            del self._host_images, self._host_labels
            self._context = None
        self._stream.close()


def open_context(product: Product, engine: Path, card: EngineCard) -> Any:
    """Deserialise an engine and make its execution context; the caller has seen to it that there is a driver.

    TensorRT-RTX captures CUDA graphs itself where the card asks for them (``CudaGraphStrategy``); for TensorRT the
    session does.

    Raises:
        InputError: TensorRT refuses the engine.
    """
    trt = importlib.import_module(product.module)
    # TensorRT keeps the first logger of a process: make one and keep it alive.
    logger = _loggers.setdefault(product.module, trt.Logger(trt.Logger.ERROR))
    runtime = trt.Runtime(logger)
    if card.version_compatible:
        runtime.engine_host_code_allowed = True
    plan = runtime.deserialize_cuda_engine(engine.read_bytes())
    if plan is None:
        raise InputError(f"{product.title} {trt.__version__} refuses {engine}; {card.again}")
    check_io(plan, trt, engine, card)
    if card.cuda_graph and product.builds_without_gpu:
        config = plan.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = plan.create_execution_context(config)
    else:
        context = plan.create_execution_context()
    if context is None:
        raise InputError(f"{engine} needs more GPU memory than is free; close other programs or build a smaller batch")
    return context


def check_io(plan: Any, trt: Any, engine: Path, card: EngineCard) -> None:
    """Check that the engine takes uint8 images and gives uint8 labels under the names of ``card``.

    Raises:
        InputError: it doesn't.
    """
    for name in (card.input_name, card.output_name):
        kind = plan.get_tensor_dtype(name)
        if kind != trt.DataType.UINT8:
            raise InputError(f"{engine}: tensor '{name}' is {kind}, not uint8; {card.again}")
