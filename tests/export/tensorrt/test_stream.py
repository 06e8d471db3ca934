"""The CUDA side of the runner, against modules that imitate pycuda, cuda-bindings, libcuda and TensorRT."""

from __future__ import annotations

import ctypes
import ctypes.util
import enum
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.files import sha256_file, write_json
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets import tensorrt as module
from fptk.export.targets.tensorrt import TensorRTRTXTarget, TensorRTTarget
from fptk.export.tensorrt.bindings_stream import BindingsStream
from fptk.export.tensorrt.driver import CudaHost, Gpu
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.pycuda_stream import PycudaStream
from fptk.export.tensorrt.stream import CudaStream
from fptk.export.tensorrt.streams import open_stream

SPEC = PreprocessSpec(size=(32, 32))
PACKAGES = ("pycuda", "cuda-bindings")


@dataclass
class FakeGpu:
    """What the imitations share: device memory by address, the calls in the words of one journal, and what fails."""

    journal: list[str] = field(default_factory=list)
    memory: dict[int, bytearray] = field(default_factory=dict)
    broken: str = ""
    """The graph call that fails, by its name in libcuda."""
    full: bool = False

    def allocate(self, nbytes: int) -> int:
        address = 1000 * (len(self.memory) + 1)
        self.memory[address] = bytearray(nbytes)
        return address

    def upload(self, address: int, host: Any) -> None:
        self.journal.append(f"upload {len(host)}")
        self.memory[address][: len(host)] = bytes(host)

    def download(self, host: Any, address: int) -> None:
        self.journal.append(f"download {len(host)}")
        host[:] = self.memory[address][: len(host)]

    def free(self, address: int) -> None:
        self.journal.append(f"free {address}")

    def graph_call(self, name: str) -> int:
        self.journal.append(name)
        return 900 if name == self.broken else 0


class FakeMemory:
    """pycuda's ``DeviceAllocation``."""

    def __init__(self, gpu: FakeGpu, nbytes: int) -> None:
        self.gpu = gpu
        self.address = gpu.allocate(nbytes)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.gpu.free(self.address)


class OutOfMemory(Exception):  # noqa: N818 - pycuda's MemoryError
    """pycuda's ``MemoryError``, which is not Python's."""


def fake_pycuda(gpu: FakeGpu) -> Any:
    driver: Any = ModuleType("pycuda.driver")
    say = gpu.journal.append
    context = SimpleNamespace(push=lambda: say("push"), detach=lambda: say("detach"))
    driver.MemoryError = OutOfMemory
    driver.init = lambda: say("init")
    driver.Device = lambda index: SimpleNamespace(retain_primary_context=lambda: context)
    driver.Context = SimpleNamespace(pop=lambda: say("pop"))
    driver.Stream = lambda: SimpleNamespace(handle=42, synchronize=lambda: say("synchronise"))

    def allocated(memory: Any) -> Any:
        if gpu.full:
            raise OutOfMemory
        return memory

    driver.pagelocked_empty = lambda size, kind: allocated(np.zeros(size, kind))
    driver.mem_alloc = lambda nbytes: allocated(FakeMemory(gpu, nbytes))
    driver.memcpy_htod_async = lambda address, host, stream: gpu.upload(address, host)
    driver.memcpy_dtoh_async = lambda host, address, stream: gpu.download(host, address)
    driver.Event = lambda: SimpleNamespace(record=lambda stream: say("mark"), time_since=lambda start: 1.5)
    return driver


class CUresult(enum.IntEnum):
    """As cuda-bindings has it."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class FakeBindings(ModuleType):
    """``cuda.bindings.driver``: functions return a tuple that begins with a ``CUresult``. pycuda's words go to the
    journal, so that both packages can be held to the same calls."""

    CUresult = CUresult
    CUevent_flags = enum.IntEnum("CUevent_flags", {"CU_EVENT_DEFAULT": 0})
    CUstreamCaptureMode = enum.IntEnum("CUstreamCaptureMode", {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1})

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("cuda.bindings.driver")
        self.gpu = gpu
        self.host: dict[int, Any] = {}
        words = {
            "cuInit": "init",
            "cuCtxPushCurrent": "push",
            "cuDevicePrimaryCtxRelease": "detach",
            "cuStreamSynchronize": "synchronise",
            "cuEventRecord": "mark",
            "cuEventDestroy": "no mark",
            "cuStreamDestroy": "no stream",
        }
        for name, word in words.items():
            setattr(self, name, lambda *given, word=word: self.done(word))
        values = {
            "cuDeviceGet": 0,
            "cuDevicePrimaryCtxRetain": "context",
            "cuStreamCreate": 42,
            "cuEventCreate": "mark",
        }
        for name, value in values.items():
            setattr(self, name, lambda *given, value=value: (CUresult.CUDA_SUCCESS, value))
        for name, value in {"cuStreamEndCapture": "graph", "cuGraphInstantiate": "executable"}.items():
            setattr(self, name, lambda *given, name=name, value=value: (self.graph(name), value))
        for name in ("cuStreamBeginCapture", "cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy"):
            setattr(self, name, lambda *given, name=name: (self.graph(name),))

    def done(self, word: str) -> Any:
        self.gpu.journal.append(word)
        return (CUresult.CUDA_SUCCESS,)

    def graph(self, name: str) -> CUresult:
        symbols = {"cuStreamBeginCapture": "_v2", "cuGraphInstantiate": "WithFlags"}
        return CUresult(self.gpu.graph_call(name + symbols.get(name, "")))

    def cuCtxPopCurrent(self) -> Any:  # noqa: N802 - the driver's own names
        self.gpu.journal.append("pop")
        return CUresult.CUDA_SUCCESS, "context"

    def cuMemAllocHost(self, nbytes: int) -> Any:  # noqa: N802
        if self.gpu.full:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0
        memory = (ctypes.c_uint8 * nbytes)()
        self.host[ctypes.addressof(memory)] = memory
        return CUresult.CUDA_SUCCESS, ctypes.addressof(memory)

    def cuMemFreeHost(self, address: int) -> Any:  # noqa: N802
        del self.host[address]
        return (CUresult.CUDA_SUCCESS,)

    def cuMemAlloc(self, nbytes: int) -> Any:  # noqa: N802
        if self.gpu.full:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        return CUresult.CUDA_SUCCESS, self.gpu.allocate(nbytes)

    def cuMemFree(self, address: int) -> Any:  # noqa: N802
        self.gpu.free(address)
        return (CUresult.CUDA_SUCCESS,)

    def cuMemcpyHtoDAsync(self, address: int, host: int, nbytes: int, stream: int) -> Any:  # noqa: N802
        self.gpu.upload(address, (ctypes.c_uint8 * nbytes).from_address(host))
        return (CUresult.CUDA_SUCCESS,)

    def cuMemcpyDtoHAsync(self, host: int, address: int, nbytes: int, stream: int) -> Any:  # noqa: N802
        self.gpu.download((ctypes.c_uint8 * nbytes).from_address(host), address)
        return (CUresult.CUDA_SUCCESS,)

    def cuEventElapsedTime(self, start: Any, end: Any) -> Any:  # noqa: N802
        return CUresult.CUDA_SUCCESS, 1.5


class FakeGraphs:
    """The graph calls of libcuda, which pycuda lacks."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.gpu.graph_call(name)


def install_pycuda(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


def install_bindings(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    """The package that does the calls."""
    return str(request.param)


@pytest.fixture
def gpu(package: str, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Installs an imitation of one package, and none of the other."""
    gpu = FakeGpu()
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    if package == "pycuda":
        install_pycuda(fake_pycuda(gpu), monkeypatch)
        monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeGraphs(gpu))
    else:
        install_bindings(FakeBindings(gpu), monkeypatch)
    return gpu


@pytest.fixture
def stream(gpu: FakeGpu) -> CudaStream:
    return open_stream()


def test_takes_the_package_that_is_there(package: str, stream: CudaStream) -> None:
    assert type(stream) is {"pycuda": PycudaStream, "cuda-bindings": BindingsStream}[package]
    assert stream.handle == 42


def test_pycuda_goes_first(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install_pycuda(fake_pycuda(gpu), monkeypatch)
    assert type(open_stream()) is PycudaStream


def test_frees_everything_once(gpu: FakeGpu, stream: CudaStream) -> None:
    with stream.current():
        addresses = [stream.allocate(nbytes) for nbytes in (100, 200)]
        assert stream.pinned(10).dtype == np.uint8
        stream.event()
    stream.close()
    stream.close()
    journal = gpu.journal
    assert journal.count("detach") == 1
    assert [call for call in journal if call.startswith("free")] == [f"free {address}" for address in addresses]
    assert journal.count("push") == journal.count("pop")
    bindings: Any = sys.modules["cuda.bindings.driver"]
    if bindings is not None:
        assert bindings.host == {}
        assert (journal.count("no mark"), journal.count("no stream")) == (1, 1)


def test_copies_there_and_back(stream: CudaStream) -> None:
    with stream.current():
        source, back = stream.pinned(64), stream.pinned(64)
        source[:] = np.arange(64)
        address = stream.allocate(64)
        stream.upload(address, source[:32])
        stream.download(back[:32], address)
        stream.synchronise()
    np.testing.assert_array_equal(back[:32], np.arange(32))
    assert not back[32:].any()


def test_times_between_two_marks(gpu: FakeGpu, stream: CudaStream) -> None:
    begin, end = stream.event(), stream.event()
    begin.record()
    end.record()
    assert end.since(begin) == 1.5
    assert gpu.journal.count("mark") == 2


def test_the_context_is_left_after_an_error(gpu: FakeGpu, stream: CudaStream) -> None:
    with pytest.raises(ZeroDivisionError), stream.current():
        raise ZeroDivisionError
    assert gpu.journal.count("push") == gpu.journal.count("pop")


@pytest.mark.parametrize(("call", "where"), [("allocate", "the GPU"), ("pinned", "the host")])
def test_full_memory_is_one_line(gpu: FakeGpu, stream: CudaStream, call: str, where: str) -> None:
    gpu.full = True
    with pytest.raises(TargetUnavailableError, match=rf"^{where} has no 2\.0 MiB of memory left; .*smaller batch$"):
        getattr(stream, call)(2 << 20)


def test_captures_and_launches_a_graph(gpu: FakeGpu, stream: CudaStream) -> None:
    launch = stream.capture(lambda: gpu.journal.append("work"))
    launch()
    stream.close()
    assert [call for call in gpu.journal if call.startswith("cu") or call == "work"] == [
        "cuStreamBeginCapture_v2",
        "work",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
        "cuGraphDestroy",
    ]


@pytest.mark.parametrize("broken", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_says_that_a_graph_cannot_be_captured(gpu: FakeGpu, stream: CudaStream, broken: str) -> None:
    gpu.broken = broken
    with pytest.raises(InputError, match=r"CUDA error 900.*export it with -o cuda_graph=false"):
        stream.capture(lambda: None)


def test_a_capture_ends_where_its_work_fails(gpu: FakeGpu, stream: CudaStream) -> None:
    """Else the stream would refuse everything that comes after it."""
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert gpu.journal[-1] == "cuStreamEndCapture"


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(TargetUnavailableError, match=r"pip install pycuda .*pip install cuda-bindings"):
        open_stream()


def test_a_driver_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    driver: Any = FakeBindings(FakeGpu())
    driver.cuInit = lambda flags: (CUresult.CUDA_ERROR_OUT_OF_MEMORY,)
    install_bindings(driver, monkeypatch)
    with pytest.raises(TargetUnavailableError, match="cuInit failed with CUDA_ERROR_OUT_OF_MEMORY"):
        BindingsStream()


def test_the_imitation_has_the_names_of_cuda_bindings() -> None:
    """What is called here must be there."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    real = importlib.import_module("cuda.bindings.driver")
    fake = FakeBindings(FakeGpu())
    called = [name for name in {*vars(fake), *dir(FakeBindings)} if name.startswith(("cu", "CU"))]
    assert len(called) > 20
    assert [name for name in called if not hasattr(real, name)] == []
    for enumeration in (CUresult, FakeBindings.CUevent_flags, FakeBindings.CUstreamCaptureMode):
        for member in enumeration:
            assert int(getattr(getattr(real, enumeration.__name__), member.name)) == member
            assert getattr(getattr(real, enumeration.__name__), member.name).name == member.name


class FakeTensorRT(ModuleType):
    """What the runner calls of TensorRT's Python module; ``plan`` is what deserialising gives."""

    __version__ = "10.13.0"

    def __init__(self, name: str, journal: list[str], kind: str = "UINT8") -> None:
        super().__init__(name)
        self.journal = journal
        self.Logger = lambda severity: "logger"
        self.Logger.ERROR = 1  # type: ignore[attr-defined]
        self.DataType = SimpleNamespace(UINT8="UINT8")
        self.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
        self.kind = kind
        self.refuses = False

    def Runtime(self, logger: str) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda data: None if self.refuses else self)

    def get_tensor_dtype(self, name: str) -> str:
        return self.kind

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy="none")

    def create_execution_context(self, config: Any = None) -> Any:
        self.journal.append(f"context {config.cuda_graph_strategy if config else 'plain'}")
        return SimpleNamespace(
            set_tensor_address=lambda name, address: True,
            set_input_shape=lambda name, shape: True,
            execute_async_v3=lambda handle: self.journal.append(f"execute on {handle}") or True,
        )


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., Path]:
    """Writes an engine with its card."""

    def write(**card: Any) -> Path:
        path = tmp_path / "model.engine"
        path.write_bytes(b"plan")
        content = EngineCard(
            target="trt",
            precision="int8",
            version="10.13.0",
            compute_capabilities=("8.7",),
            input_name="images",
            output_name="labels",
            size=SPEC.size,
            batch=(1, 1),
            preprocess_sha256=SPEC.sha256,
            engine_sha256=sha256_file(path),
            rebuild="trtexec --onnx=model.onnx",
        )
        write_json(tmp_path / "engine.json", content.model_copy(update=card).model_dump(mode="json"))
        return path

    return write


@pytest.fixture
def gpu_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "wheel_version", lambda product: "10.13.0")
    monkeypatch.setattr(module, "cuda_host", lambda: CudaHost("12.6", (Gpu("Orin", "8.7", 0),)))
    monkeypatch.setattr(module, "package_version", lambda name: "2024.1")


@pytest.mark.usefixtures("gpu_host")
def test_loads_and_runs_an_engine(engine: Callable[..., Path], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("tensorrt", gpu.journal))
    with TensorRTTarget().load(engine(), SPEC) as session:
        assert session.name == "trt int8"
        assert session(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 32, 32)
    assert gpu.journal.count("execute on 42") == 2
    assert gpu.journal.count("upload 3072") == gpu.journal.count("download 1024") == 2
    assert gpu.journal[-1] == "detach"


@pytest.mark.usefixtures("gpu_host")
def test_an_engine_exported_with_graphs_is_launched_as_one(
    engine: Callable[..., Path], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("tensorrt", gpu.journal))
    with TensorRTTarget().load(engine(cuda_graph=True), SPEC) as session:
        session(np.zeros((3, 32, 32, 3), np.uint8))
    assert "context plain" in gpu.journal
    assert gpu.journal.count("execute on 42") == 2, "to warm up and to capture"
    assert gpu.journal.count("cuGraphLaunch") == 3


@pytest.mark.usefixtures("gpu_host")
def test_rtx_captures_graphs_itself(engine: Callable[..., Path], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT("tensorrt_rtx", gpu.journal))
    with TensorRTRTXTarget().load(engine(cuda_graph=True), SPEC) as session:
        session(np.zeros((1, 32, 32, 3), np.uint8))
    assert "context whole" in gpu.journal
    assert "cuStreamBeginCapture_v2" not in gpu.journal


@pytest.mark.usefixtures("gpu_host")
@pytest.mark.parametrize(("refuses", "kind", "reason"), [(True, "UINT8", "refuses"), (False, "FLOAT", "not uint8")])
def test_an_engine_that_is_refused_leaves_no_context(
    refuses: bool,
    kind: str,
    reason: str,
    engine: Callable[..., Path],
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeTensorRT("tensorrt", gpu.journal, kind)
    fake.refuses = refuses
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    with pytest.raises(InputError, match=f"{reason}.*trtexec"):
        TensorRTTarget().load(engine(), SPEC)
    assert gpu.journal[-1] == "detach"
