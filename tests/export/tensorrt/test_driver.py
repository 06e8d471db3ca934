"""The probe asks the driver's own library, and says what is missing where there is none."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
import sys
from typing import Any

import pytest

from fptk.export.tensorrt import driver as host
from fptk.export.tensorrt.product import TENSORRT, TENSORRT_RTX


class FakeDriver:
    """The calls of libcuda that :func:`host.cuda_host` makes."""

    def __init__(self, status: int = 0, gpus: int = 1) -> None:
        self.status = status
        self.gpus = gpus

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's own name
        return self.status

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 12080
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = b"Imagined GPU"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = 8 << 30
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


@pytest.fixture
def with_driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(driver: Any) -> None:
        monkeypatch.setattr(host, "driver_library", lambda: "libcuda.so.1")
        monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)

    return install


def test_reads_driver_and_gpus(with_driver: Any) -> None:
    with_driver(FakeDriver())
    found = host.cuda_host()
    assert (found.driver, found.reason) == ("12.8", "")
    assert found.gpus == (host.Gpu("Imagined GPU", "8.7", 8 << 30),)


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (FakeDriver(status=34), "CUDA error 34"),  # the stub library of a toolkit
        (FakeDriver(status=100), "CUDA error 100"),  # a driver without a device
        (FakeDriver(gpus=0), "sees no GPU"),
    ],
)
def test_says_why_a_driver_is_of_no_use(driver: FakeDriver, reason: str, with_driver: Any) -> None:
    with_driver(driver)
    found = host.cuda_host()
    assert reason in found.reason
    assert found.remedy
    assert found.gpus == ()


def test_says_that_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "driver_library", lambda: None)
    assert "no NVIDIA driver" in host.cuda_host().reason

    def broken(name: str) -> Any:
        raise OSError("wrong architecture")

    monkeypatch.setattr(host, "driver_library", lambda: "libcuda.so.1")
    monkeypatch.setattr(ctypes, "CDLL", broken)
    assert "wrong architecture" in host.cuda_host().reason


def test_finds_the_driver_library_with_and_without_the_loaders_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", loads.append)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.2")
    assert host.driver_library() == "libcuda.so.2"
    assert loads == [], "it is only looked for"
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert host.driver_library() == "libcuda.so.1"

    def missing(name: str) -> Any:
        raise OSError("no such file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert host.driver_library() is None


def test_a_missing_wheel_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.util, "find_spec", lambda name: None)
    assert host.wheel_version(TENSORRT) is None
    assert host.wheel_version(TENSORRT_RTX) is None


@pytest.mark.parametrize(
    ("version", "old"),
    [("10.11.0.33", True), ("8.6.1", True), ("10.12.0", False), ("11.4.1", False), ("unknown", False)],
)
def test_knows_versions_that_are_too_old(version: str, old: bool) -> None:
    assert host.is_too_old(version, TENSORRT.minimum) is old


def test_probing_and_listing_load_neither_tensorrt_nor_onnx() -> None:
    """``fptk doctor`` and ``fptk --help`` on a device stay quick, and a broken wheel can't take them down."""
    code = (
        "import sys; from fptk.export.targets.tensorrt import TensorRTTarget, TensorRTRTXTarget; "
        "TensorRTTarget().probe(); TensorRTRTXTarget().probe(); "
        "print(sorted({'tensorrt', 'tensorrt_rtx', 'pycuda', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
