"""Fixtures that all tests share: the command line in-process, a small checkpoint, a small data set, real faces."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fptk.core.dataset import UInt8Array

if TYPE_CHECKING:
    from fptk.benchmarks.report import Row
    from fptk.export.targets.base import CalibrationStream

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finished:
    """What a command line left."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("fptk.benchmarks.quick.SECONDS", 0.05)  # hundreds of exports time their engines
        yield


@pytest.fixture
def fptk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run ``fptk ARGS...`` in this process, through the same entry point as the script."""
    from fptk.cli import main

    def call(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["fptk", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def faces_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the CE7454 layout: 12 training and 4 validation synthetic faces of 64x64."""
    from fptk.data.synthetic.faces import SyntheticFaces
    from fptk.data.writer import write_dataset

    folder = tmp_path_factory.mktemp("faces")
    write_dataset(SyntheticFaces(12, (64, 64)), folder, "train")
    write_dataset(SyntheticFaces(4, (64, 64), start=12), folder, "val")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained MicroSegFormer for 64x64 images."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fptk.core.preprocess import PreprocessSpec
    from fptk.models import CheckpointCard, count_parameters, create_model, save_checkpoint

    torch.manual_seed(0)
    model = create_model("microsegformer")
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    card = CheckpointCard(
        model=model.name,
        options=model.options,
        num_parameters=count_parameters(model),
        preprocess=PreprocessSpec(size=(64, 64)),
    )
    save_checkpoint(path, model.state_dict(), card)
    return path


@pytest.fixture(scope="session")
def cpu_bundles(checkpoint: Path, faces_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ``onnx-fp32`` and ``openvino-fp32``, of the untrained network, scored and not judged; not to change."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    import fptk as api

    out = tmp_path_factory.mktemp("cpu")
    api.build(checkpoint, precisions=("fp32",), data=faces_folder, gate=None, out=out, matrix_images=0)
    return out / "bundles"


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """Folder with the CelebAMask-HQ subsets; the test is skipped where they are absent."""
    folder = Path(os.environ.get("FPTK_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "celebamask-3k").is_dir():
        pytest.skip(f"no real faces in {folder}; set FPTK_DATA to the folder that holds celebamask-3k")
    return folder


@pytest.fixture(scope="session")
def row() -> Row:
    """A row of ``fptk bench`` that passed here."""
    from fptk.benchmarks.report import Row

    return Row(
        network="microsegformer",
        checkpoint_sha256="0" * 64,
        target="openvino",
        precision="fp32",
        graph="deploy",
        miou=0.7,
        f1=0.8,
        delta_miou=0.0,
        fps=20.0,
        p50_ms=50.0,
        p90_ms=60.0,
        p99_ms=70.0,
        size_bytes=7_000_000,
        peak_bytes=None,
        macs=None,
        roofline_ms=None,
        roofline_fraction=None,
        verdict="pass",
        accuracy="measured",
    )


@pytest.fixture(scope="session")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained network's deploy form as ONNX, with one metadata entry."""
    from fptk.export.onnx import export_onnx, serving_module
    from fptk.models import load_checkpoint

    network, card = load_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    module = serving_module(network, card.preprocess, "deploy", "onnxruntime")
    return export_onnx(module, path, card.preprocess, metadata={"fptk.model": card.model})


@pytest.fixture(scope="session")
def images() -> UInt8Array:
    """Four synthetic faces, uint8 (4, 64, 64, 3)."""
    from fptk.data.synthetic.faces import SyntheticFaces

    faces = SyntheticFaces(4, (64, 64), seed=1)
    return np.stack([faces[i].image for i in range(4)])


@pytest.fixture(scope="session")
def calibration(images: UInt8Array, tmp_path_factory: pytest.TempPathFactory) -> CalibrationStream:
    """The images as a calibration set, every pixel of them skin."""
    from fptk.export.targets.base import CalibrationStream

    return CalibrationStream(
        images=lambda: (images[i : i + 1] for i in range(len(images))),
        labelled=lambda: ((images[i : i + 1], np.ones(images.shape[1:3], np.uint8)) for i in range(len(images))),
        sha256="of four synthetic faces",
        preprocess_sha256="of 64x64",
        cache=tmp_path_factory.mktemp("ranges"),
    )


@pytest.fixture
def wrong_int8_layer() -> Callable[[Path | bytes, str], bytes]:
    """Multiply the result of one layer of an ONNX model by -3, as long as both its inputs are dequantized."""
    import onnx
    from onnx import helper, numpy_helper

    def changed(model: Path | bytes, layer: str) -> bytes:
        loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
        dequantized = {node.output[0] for node in loaded.graph.node if node.op_type == "DequantizeLinear"}
        for index, node in enumerate(loaded.graph.node):
            if node.name == layer and {*node.input[:2]} <= dequantized:
                result, node.output[0] = node.output[0], f"{layer}/right"
                loaded.graph.initializer.append(numpy_helper.from_array(np.float32(-3), f"{layer}/fault"))
                wrong = helper.make_node("Mul", [node.output[0], f"{layer}/fault"], [result], name=f"{layer}/wrong")
                loaded.graph.node.insert(index + 1, wrong)
                break
        data: bytes = loaded.SerializeToString()
        return data

    return changed
