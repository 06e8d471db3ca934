"""A TensorRT 10 build from request to artefact; the builder's process imports a module in TensorRT's place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fptk.core.errors import GateRefusedError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets import tensorrt as module
from fptk.export.targets.base import BuildRequest, BuildResult, CalibrationStream, EngineNotBuiltError, Timing
from fptk.export.targets.tensorrt import TensorRTRTXTarget, TensorRTTarget, TrtOptions
from fptk.export.tensorrt.driver import CudaHost, Gpu
from fptk.export.tensorrt.engine_card import EngineCard

SPEC = PreprocessSpec(size=(64, 64))

STAND_IN = '''
"""What the worker calls of tensorrt 10.x; the engine "inspects" as the file INSPECTION says."""
import enum, os, pathlib
from types import SimpleNamespace as Names

__version__ = "10.13.3"
class ILogger: pass
class NetworkDefinitionCreationFlag(enum.IntEnum): EXPLICIT_BATCH = 0; STRONGLY_TYPED = 1
ProfilingVerbosity = Names(DETAILED="detailed")
LayerInformationFormat = Names(JSON="json")

class Builder:
    def __init__(self, logger): self.logger = logger
    def create_network(self, flags):
        assert flags == 2, flags
        return Names(get_input=lambda index: Names(name="images", shape=(1, 64, 64, 3)))
    def create_builder_config(self):
        config = Names()
        config.create_timing_cache = lambda content: Names(serialize=lambda: content + b"+new")
        config.set_timing_cache = lambda cache, ignore_mismatch: setattr(config, "cache", cache)
        config.get_timing_cache = lambda: config.cache
        return config
    def build_serialized_network(self, network, config):
        assert config.profiling_verbosity == "detailed"
        self.logger.log(1, "no GPU that suits") if "FAIL" in os.environ else self.logger.log(3, "built")
        return None if "FAIL" in os.environ else b"plan"

class OnnxParser:
    def __init__(self, network, logger): pass
    def parse_from_file(self, name): return pathlib.Path(name).is_file()

class Runtime:
    def __init__(self, logger): pass
    def deserialize_cuda_engine(self, plan):
        inspector = Names(get_engine_information=lambda kind: os.environ["INSPECTION"])
        return Names(create_engine_inspector=lambda: inspector)
'''


def inspection(precision: str, *floats: str) -> str:
    nodes = ["embed", "query", "key", "value", "scores", "mix", "project", "head"]
    layers = [
        {
            "Name": node,
            "LayerType": "gemm",
            "Inputs": [{"Format/Datatype": "Row major FP32 format" if node in floats else precision}],
            "Metadata": f"[ONNX Layer: {node}]",
        }
        for node in nodes
    ]
    return json.dumps({"Layers": layers, "Bindings": ["images", "labels"]})


@pytest.fixture
def build(face_net: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BuildResult]:
    """Builds with the stand-in on a host with an Orin."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "tensorrt.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=os.pathsep)
    monkeypatch.setattr(module, "wheel_version", lambda product: "10.13.3")
    monkeypatch.setattr(module, "cuda_host", lambda: CudaHost("12.6", (Gpu("Orin", "8.7", 8 << 30),)))
    folder = tmp_path / "bundle"
    folder.mkdir()

    def run(listing: str, **options: Any) -> BuildResult:
        monkeypatch.setenv("INSPECTION", listing)
        return TensorRTTarget().build(
            BuildRequest(
                face_net,
                Precision.INT8,
                folder,
                SPEC,
                CalibrationStream(images, list, "test", "test", folder / "ranges"),
                TrtOptions.model_validate(options),
            )
        )

    return run


def test_builds_for_the_gpu_of_the_host(build: Callable[..., BuildResult], tmp_path: Path) -> None:
    (tmp_path / "old.cache").write_bytes(b"timings")
    artifact = build(inspection("Row major Int8 format"), timing_cache=tmp_path / "old.cache")
    assert artifact.files[0].read_bytes() == b"plan"
    assert artifact.files[-1].name == "timing.cache"
    assert artifact.files[-1].read_bytes() == b"timings+new"
    assert artifact.record.layers.summary == "8 conv and gemm layers: 8 in Int8"
    assert artifact.record.details["bound_to"] == {"version": "10.13.3", "compute_capabilities": ["8.7"], "gpu": "Orin"}
    assert "--timingCacheFile=timing.cache" in artifact.record.rebuild
    assert EngineCard.read(artifact.files[0]).cuda_graph is False


def test_the_engine_keeps_that_it_is_launched_as_a_graph(build: Callable[..., BuildResult]) -> None:
    artifact = build(inspection("Row major Int8 format"), cuda_graph=True)
    assert EngineCard.read(artifact.files[0]).cuda_graph is True
    command = TensorRTTarget().measure_command(artifact.files[0], Timing(transfers=False))
    assert command == "trtexec --loadEngine=model.engine --useSpinWait --useCudaGraph --noDataTransfers"
    command = TensorRTTarget().measure_command(artifact.files[0], Timing("throughput"))
    assert command == "trtexec --loadEngine=model.engine --useSpinWait --useCudaGraph --infStreams=2"
    assert TensorRTRTXTarget().measure_command(artifact.files[0], Timing("throughput")) is None


def test_an_engine_that_fell_back_is_refused(build: Callable[..., BuildResult], tmp_path: Path) -> None:
    with pytest.raises(GateRefusedError, match=r"6 of 8 .*scores \(Float: its inputs are quantised"):
        build(inspection("Row major Int8 format", "scores", "mix"))
    report = json.loads((tmp_path / "bundle" / "layers.json").read_text())
    assert report["int8_share"] == 0.75, "the listing stays to be read"
    assert not (tmp_path / "bundle" / "engine.json").exists()


def test_a_builder_without_an_engine_keeps_the_onnx_file_and_the_log(
    build: Callable[..., BuildResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(EngineNotBuiltError, match="could not build the engine: no GPU that suits") as caught:
        build(inspection("Int8"))
    assert [path.name for path in caught.value.kept] == ["model.onnx", "build.log"]
    assert "no GPU that suits" in caught.value.kept[1].read_text()
