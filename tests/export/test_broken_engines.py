"""An engine that its own runtime refuses: what was found out before it broke is told to the next candidate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from fptk.calibration.kernel_faults import KernelFault
from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.progress import SILENT
from fptk.core.session import Session
from fptk.export import exporter
from fptk.export.attempt import EngineBrokenError, attempt
from fptk.export.inputs import ExportInputs
from fptk.export.targets.base import BuildRequest, BuildResult, Probe, Target, TargetOptions

SPEC = PreprocessSpec(size=(32, 32))
IMAGES = np.zeros((1, 32, 32, 3), np.uint8)
FAULT = KernelFault(layer="conv", op_type="Conv", kernel="k", error=2.0, processor="p", version="v")


class Constant(Session):
    """Labels everything as one class."""

    def __init__(self, label: int) -> None:
        super().__init__("constant", SPEC)
        self.label = label

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return np.full(images.shape[:3], self.label, np.uint8)


class Options(TargetOptions):
    float_nodes: tuple[str, ...] = ()
    """Layers to keep in float."""


class Breaks(Target):
    """Computes a layer wrongly; with that layer in float, its engine doesn't load."""

    name: ClassVar[str] = "breaks"
    calibrated: ClassVar[tuple[Precision, ...]] = ()
    options: ClassVar[type[TargetOptions]] = Options

    def __init__(self) -> None:
        self.kept: list[tuple[str, ...]] = []

    def probe(self) -> Probe:
        return Probe(True, True)

    def build(self, request: BuildRequest) -> BuildResult:
        self.kept.append(request.options_as(Options).float_nodes)
        return BuildResult((request.folder / "engine",))

    def load(self, path: Path, spec: PreprocessSpec, **_: Any) -> Session:
        if self.kept[-1]:
            raise InputError("the runtime refuses it")
        return Constant(1)

    def simulate(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session:
        return Constant(0)

    def find_faults(self, path: Path, images: UInt8Array, *, precision_hint: str | None = None) -> list[KernelFault]:
        return [FAULT]


@pytest.fixture
def inputs(tmp_path: Path) -> ExportInputs:
    """As much of an export's inputs as building an engine asks for."""
    found: Any = SimpleNamespace(
        spec=SPEC,
        classes=CELEBAMASK,
        plan=SimpleNamespace(options={}, threads=1),
        listener=SILENT,
        fault_images=(IMAGES, np.zeros(IMAGES.shape[:3], np.uint8)),
        onnx=lambda target, precision: tmp_path / "fp32.onnx",
        options=lambda target: Options(),
    )
    return found  # type: ignore[no-any-return]


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    return lambda: tmp_path


def test_the_error_carries_the_faults_that_were_found_before(
    inputs: ExportInputs, new_folder: Callable[[], Path]
) -> None:
    target = Breaks()
    with pytest.raises(EngineBrokenError, match="as built does not load: the runtime refuses it") as caught:
        attempt(inputs, target, Precision.INT8, new_folder)
    assert caught.value.faults == (FAULT,)
    assert target.kept == [(), ("conv",)]


def test_the_next_candidate_keeps_the_layers_in_float(inputs: ExportInputs, new_folder: Callable[[], Path]) -> None:
    """It is built with them at once."""
    target, exports = Breaks(), exporter._Exporter(inputs)
    for _ in range(2):
        with pytest.raises(EngineBrokenError):
            exports._attempt(target, Precision.INT8, new_folder, {})
    assert target.kept == [(), ("conv",), ("conv",)]
