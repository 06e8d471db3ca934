"""The contract of :mod:`fptk.export.tensorrt.stream` by pycuda."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fptk.core.dataset import UInt8Array
from fptk.core.errors import TargetUnavailableError
from fptk.export.tensorrt.driver import driver_library
from fptk.export.tensorrt.stream import Event, no_memory, require_graph

_CAPTURE_THREAD_LOCAL = 1
"""``CU_STREAM_CAPTURE_MODE_THREAD_LOCAL``: other threads may go on calling CUDA."""


class PycudaStream:
    """:class:`CudaStream` by pycuda, on the primary context of GPU ``device``.

    pycuda has no call for CUDA graphs, so those go to the driver library itself (CUDA Driver API, *Graph Management*).

    Raises:
        TargetUnavailableError: pycuda is not installed or does not find the driver.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise TargetUnavailableError(f"pycuda does not load ({error})") from error
        self._cuda: Any = cuda
        cuda.init()
        self._context: Any = cuda.Device(device).retain_primary_context()
        self._memory: list[Any] = []
        self._graphs: list[tuple[ctypes.c_void_p, ctypes.c_void_p]] = []
        with self.current():
            self._stream: Any = cuda.Stream()
        self.handle = int(self._stream.handle)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def pinned(self, nbytes: int) -> UInt8Array:
        try:
            memory: UInt8Array = self._cuda.pagelocked_empty(nbytes, np.uint8)
        except self._cuda.MemoryError:
            raise no_memory("the host", nbytes) from None
        return memory

    def allocate(self, nbytes: int) -> int:
        try:
            self._memory.append(self._cuda.mem_alloc(nbytes))
        except self._cuda.MemoryError:
            raise no_memory("the GPU", nbytes) from None
        return int(self._memory[-1])

    def upload(self, address: int, host: UInt8Array) -> None:
        self._cuda.memcpy_htod_async(address, host, self._stream)

    def download(self, host: UInt8Array, address: int) -> None:
        self._cuda.memcpy_dtoh_async(host, address, self._stream)

    def event(self) -> Event:
        return _PycudaEvent(self._cuda.Event(), self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        library = ctypes.CDLL(driver_library() or "libcuda.so.1")
        stream = ctypes.c_void_p(self.handle)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        require_graph(library.cuStreamBeginCapture_v2(stream, _CAPTURE_THREAD_LOCAL), "begin to capture a CUDA graph")
        try:
            work()
        finally:
            status = library.cuStreamEndCapture(stream, ctypes.byref(graph))
        require_graph(status, "capture the engine as a CUDA graph")
        status = library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        require_graph(status, "instantiate the CUDA graph")
        self._graphs.append((graph, executable))

        def launch() -> None:
            require_graph(library.cuGraphLaunch(executable, stream), "launch the CUDA graph")

        return launch

    def synchronise(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        if self._context is None:
            return
        with self.current():
            self._stream.synchronize()
            library = ctypes.CDLL(driver_library() or "libcuda.so.1") if self._graphs else None
            for graph, executable in self._graphs:
                library.cuGraphExecDestroy(executable)  # type: ignore[union-attr]
                library.cuGraphDestroy(graph)  # type: ignore[union-attr]
            for memory in self._memory:
                memory.free()
            self._stream = None
        self._graphs, self._memory = [], []
        self._context.detach()
        self._context = None


class _PycudaEvent:
    def __init__(self, event: Any, stream: Any) -> None:
        self.raw = event
        self._stream = stream

    def record(self) -> None:
        self.raw.record(self._stream)

    def since(self, start: Event) -> float:
        assert isinstance(start, _PycudaEvent)
        return float(self.raw.time_since(start.raw))
