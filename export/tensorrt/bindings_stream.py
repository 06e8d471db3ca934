"""The contract of :mod:`fptk.export.tensorrt.stream` by NVIDIA's cuda-bindings, whose wheels need no compiler.

Every function of ``cuda.bindings.driver`` is the C function of that name; it returns a tuple of the ``CUresult`` and
what C writes through pointers (*CUDA Python: cuda.bindings*; *CUDA Driver API*).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fptk.core.dataset import UInt8Array
from fptk.core.errors import TargetUnavailableError
from fptk.export.tensorrt.stream import Event, no_memory, require_graph


class BindingsStream:
    """:class:`~fptk.export.tensorrt.stream.CudaStream` by cuda-bindings, on the primary context of GPU ``device``.

    Raises:
        TargetUnavailableError: cuda-bindings is not installed, or does not find a driver that starts.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            self._cuda: Any = importlib.import_module("cuda.bindings.driver")
            self._call("cuInit", 0)
        except (ImportError, RuntimeError) as error:
            raise TargetUnavailableError(f"cuda-bindings does not load ({error})") from error
        self._device = self._call("cuDeviceGet", device)
        self._context: Any = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._memory: list[Any] = []
        self._pinned: list[int] = []
        self._events: list[Any] = []
        self._graphs: list[tuple[Any, Any]] = []
        with self.current():
            self._stream: Any = self._call("cuStreamCreate", 0)
        self.handle = int(self._stream)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def pinned(self, nbytes: int) -> UInt8Array:
        address = int(self._allocate("cuMemAllocHost", "the host", nbytes))
        self._pinned.append(address)
        memory: UInt8Array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return memory

    def allocate(self, nbytes: int) -> int:
        self._memory.append(self._allocate("cuMemAlloc", "the GPU", nbytes))
        return int(self._memory[-1])

    def upload(self, address: int, host: UInt8Array) -> None:
        self._call("cuMemcpyHtoDAsync", address, host.ctypes.data, host.nbytes, self._stream)

    def download(self, host: UInt8Array, address: int) -> None:
        self._call("cuMemcpyDtoHAsync", host.ctypes.data, address, host.nbytes, self._stream)

    def event(self) -> Event:
        self._events.append(self._call("cuEventCreate", int(self._cuda.CUevent_flags.CU_EVENT_DEFAULT)))
        return _BindingsEvent(self._call, self._events[-1], self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        # Thread-local: other threads may go on calling CUDA.
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        require_graph(int(self._cuda.cuStreamBeginCapture(self._stream, mode)[0]), "begin to capture a CUDA graph")
        try:
            work()
        finally:
            status, graph = self._cuda.cuStreamEndCapture(self._stream)
        require_graph(int(status), "capture the engine as a CUDA graph")
        status, executable = self._cuda.cuGraphInstantiate(graph, 0)
        require_graph(int(status), "instantiate the CUDA graph")
        self._graphs.append((graph, executable))

        def launch() -> None:
            require_graph(int(self._cuda.cuGraphLaunch(executable, self._stream)[0]), "launch the CUDA graph")

        return launch

    def synchronise(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        if self._context is None:
            return
        with self.current():
            self._call("cuStreamSynchronize", self._stream)
            for graph, executable in self._graphs:
                self._call("cuGraphExecDestroy", executable)
                self._call("cuGraphDestroy", graph)
            for event in self._events:
                self._call("cuEventDestroy", event)
            for memory in self._memory:
                self._call("cuMemFree", memory)
            for address in self._pinned:
                self._call("cuMemFreeHost", address)
            self._call("cuStreamDestroy", self._stream)
        self._graphs, self._events, self._memory, self._pinned = [], [], [], []
        self._call("cuDevicePrimaryCtxRelease", self._device)
        self._context = None

    def _call(self, name: str, *arguments: Any) -> Any:
        """What the driver's function ``name`` gives; ``None`` where it gives nothing.

        Raises:
            RuntimeError: it failed.
        """
        return _value(name, getattr(self._cuda, name)(*arguments))

    def _allocate(self, name: str, where: str, nbytes: int) -> Any:
        result = getattr(self._cuda, name)(nbytes)
        if result[0] == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise no_memory(where, nbytes)
        return _value(name, result)


def _value(name: str, result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status):
        raise RuntimeError(f"{name} failed with {status.name}")
    return values[0] if values else None


class _BindingsEvent:
    def __init__(self, call: Callable[..., Any], handle: Any, stream: Any) -> None:
        self.handle = handle
        self._call = call
        self._stream = stream

    def record(self) -> None:
        self._call("cuEventRecord", self.handle, self._stream)

    def since(self, start: Event) -> float:
        assert isinstance(start, _BindingsEvent)
        return float(self._call("cuEventElapsedTime", start.handle, self.handle))
