"""The pycuda side of the runner, against modules that imitate pycuda, libcuda and TensorRT call by call."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
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
from fptk.export.tensorrt import stream as cuda
from fptk.export.tensorrt.driver import CudaHost, Gpu
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.stream import PycudaStream

SPEC = PreprocessSpec(size=(32, 32))


class FakeMemory:
    def __init__(self, journal: list[str], address: int) -> None:
        self.journal = journal
        self.address = address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.journal.append(f"free {self.address}")


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Installs an imitation of pycuda and returns the list of calls that it saw."""
    calls: list[str] = []
    driver: Any = ModuleType("pycuda.driver")
    package: Any = ModuleType("pycuda")
    package.driver = driver
    context = SimpleNamespace(push=lambda: calls.append("push"), detach=lambda: calls.append("detach"))
    driver.init = lambda: calls.append("init")
    driver.Device = lambda index: SimpleNamespace(retain_primary_context=lambda: context)
    driver.Context = SimpleNamespace(pop=lambda: calls.append("pop"))
    driver.Stream = lambda: SimpleNamespace(handle=42, synchronize=lambda: calls.append("synchronise"))
    driver.pagelocked_empty = lambda size, kind: np.zeros(size, kind)
    driver.mem_alloc = lambda nbytes: FakeMemory(calls, nbytes)
    driver.memcpy_htod_async = lambda address, host, stream: calls.append(f"upload {address} {host.size}")
    driver.memcpy_dtoh_async = lambda host, address, stream: calls.append(f"download {address} {host.size}")
    driver.Event = lambda: SimpleNamespace(record=lambda stream: None, time_since=lambda start: 1.5)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return calls


class FakeGraphs:
    """The graph calls of libcuda; ``broken`` names the one that fails."""

    def __init__(self, journal: list[str], broken: str = "") -> None:
        self.journal = journal
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.journal.append(name)
            return 900 if name == self.broken else 0

        return call


def test_frees_everything_once(journal: list[str]) -> None:
    stream = PycudaStream()
    with stream.current():
        addresses = [stream.allocate(nbytes) for nbytes in (100, 200)]
        assert stream.pinned(10).dtype == np.uint8
    assert addresses == [100, 200]
    stream.close()
    stream.close()
    assert journal.count("detach") == 1
    assert [call for call in journal if call.startswith("free")] == ["free 100", "free 200"]
    assert journal.count("push") == journal.count("pop")


def test_the_context_is_left_after_an_error(journal: list[str]) -> None:
    stream = PycudaStream()
    with pytest.raises(ZeroDivisionError), stream.current():
        raise ZeroDivisionError
    assert journal.count("push") == journal.count("pop")


def test_captures_and_launches_a_graph(journal: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeGraphs(journal))
    stream = PycudaStream()
    launch = stream.capture(lambda: journal.append("work"))
    launch()
    stream.close()
    assert [call for call in journal if call.startswith("cu") or call == "work"] == [
        "cuStreamBeginCapture_v2",
        "work",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
        "cuGraphDestroy",
    ]


@pytest.mark.parametrize("broken", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_says_that_a_graph_cannot_be_captured(broken: str, journal: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeGraphs(journal, broken))
    with pytest.raises(InputError, match=r"CUDA error 900.; run without CUDA graphs"):
        PycudaStream().capture(lambda: None)


def test_says_how_to_install_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(TargetUnavailableError, match="pip install pycuda"):
        PycudaStream()


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
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    card = EngineCard(
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
    write_json(tmp_path / "engine.json", card.model_dump(mode="json"))
    return path


@pytest.fixture
def gpu_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "wheel_version", lambda product: "10.13.0")
    monkeypatch.setattr(module, "cuda_host", lambda: CudaHost("12.6", (Gpu("Orin", "8.7", 0),)))
    monkeypatch.setattr(module, "package_version", lambda name: "2024.1")


@pytest.mark.usefixtures("gpu_host")
def test_loads_and_runs_an_engine(engine: Path, journal: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("tensorrt", journal))
    with TensorRTTarget().load(engine, SPEC) as session:
        assert session.name == "trt int8"
        assert session(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 32, 32)
    assert journal.count("execute on 42") == 2
    assert journal.count("upload 3072 3072") == journal.count("download 1024 1024") == 2
    assert journal[-1] == "detach"


@pytest.mark.usefixtures("gpu_host")
def test_rtx_captures_graphs_itself(engine: Path, journal: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT("tensorrt_rtx", journal))
    TensorRTRTXTarget().load(engine, SPEC, cuda_graph=True).close()
    assert "context whole" in journal


@pytest.mark.usefixtures("gpu_host")
@pytest.mark.parametrize(("refuses", "kind", "reason"), [(True, "UINT8", "refuses"), (False, "FLOAT", "not uint8")])
def test_an_engine_that_is_refused_leaves_no_context(
    refuses: bool, kind: str, reason: str, engine: Path, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRT("tensorrt", journal, kind)
    fake.refuses = refuses
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    with pytest.raises(InputError, match=f"{reason}.*trtexec"):
        TensorRTTarget().load(engine, SPEC)
    assert journal[-1] == "detach"


def test_the_driver_library_is_only_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.1")
    assert cuda.driver_library() == "libcuda.so.1"
