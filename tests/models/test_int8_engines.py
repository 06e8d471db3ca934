"""INT8 engines of every network: they build, and give the labels of the float network on weights that look trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.onnx import export_onnx
from fptk.export.targets.base import BuildRequest, BuildResult, CalibrationStream
from fptk.export.targets.onnxruntime import OnnxRuntimeSession
from fptk.export.targets.registry import get_target
from fptk.models import TorchSession, create_model, list_models
from fptk.models.deploy import to_deploy
from fptk.models.deploy.serving import Serving

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

SPEC = PreprocessSpec(size=(96, 128))

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the package tensorrt_rtx is not installed; run: pip install 'fptk[trt-rtx]'",
)

NETWORKS = [*((name, {}) for name in list_models()), ("segformer", {"head": "transpose"})]


def build(target: str, model: Any, images: Any, folder: Path, **options: Any) -> BuildResult:
    """The INT8 artefact of ``target``, calibrated on the first half of the images."""
    chosen = get_target(target)
    graph = export_onnx(
        Serving(to_deploy(model, engine=chosen.form_of(Precision.INT8)), SPEC), folder / "float.onnx", SPEC
    )
    calibration = CalibrationStream(
        images=lambda: (images[i : i + 1] for i in range(len(images) // 2)),
        labelled=list,
        sha256="of synthetic faces",
        preprocess_sha256="of 96x128",
        cache=folder / "ranges",
    )
    return chosen.build(
        BuildRequest(
            graph, Precision.INT8, folder, SPEC, calibration=calibration, options=chosen.options.model_validate(options)
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino", pytest.param("trt-rtx", marks=needs_rtx)])
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_int8_engine_gives_the_labels_of_pytorch(
    name: str, options: dict[str, Any], target: str, trained_like: Any, tmp_path: Path
) -> None:
    """For TensorRT-RTX, which runs on a GPU only, its Q/DQ file is run by ONNX Runtime."""
    pytest.importorskip("nncf", reason="the extra 'export' is not installed")
    model = trained_like(create_model(name, **options))
    faces = SyntheticFaces(6, SPEC.size, seed=3)
    images = np.stack([faces[i].image for i in range(6)])
    reference = TorchSession(model, SPEC)(images)
    simulated = target == "trt-rtx"
    artifact = build(target, model, images, tmp_path, **({"sm": (86,)} if simulated else {}))
    if simulated:
        assert artifact.record.layers is not None
        assert (artifact.record.layers.int8_share or 0) >= 0.9
        session: Any = OnnxRuntimeSession(tmp_path / "model.onnx", SPEC, float_only=True)
    else:
        session = get_target(target).load(artifact.files[0], SPEC, threads=2)
    with session:
        assert (session(images[3:]) == reference[3:]).mean() >= 0.9


@pytest.mark.slow
def test_openvino_report_counts_what_runs_in_int8(trained_like: Any, tmp_path: Path) -> None:
    """A FakeQuantize before a max-pooling or on the parts of a concatenation quantises the convolution behind it."""
    pytest.importorskip("nncf", reason="the extra 'export' is not installed")
    faces = SyntheticFaces(2, SPEC.size, seed=3)
    images = np.stack([faces[i].image for i in range(2)])
    with torch.inference_mode():
        artifact = build("openvino", trained_like(create_model("unet")), images, tmp_path)
    assert artifact.record.quantizer is not None
    assert artifact.record.quantizer.kept_float == ()
