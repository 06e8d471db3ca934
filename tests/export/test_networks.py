"""Every network of the registry goes through both CPU targets: FP32 with PyTorch's labels, INT8 close to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fptk.export.onnx_export import export_onnx
from fptk.export.targets.base import BuildRequest, CalibrationStream, Precision
from fptk.export.targets.registry import get_target
from fptk.models import create_model, list_models
from fptk.models.serving import Serving
from fptk.pipeline import serving_module
from fptk.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size=(96, 64))


def steady_network(name: str) -> Any:
    """Seeded weights that separate the classes: an untrained network's near-ties would flip on any rounding."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)
            elif isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("name", list_models())
def test_every_network_runs_in_float_and_int8(name: str, target: str, tmp_path: Path) -> None:
    from fptk.data.synthetic import SyntheticFaces

    faces = SyntheticFaces(4, SPEC.size, seed=1)
    images = np.stack([faces[index].image for index in range(4)])
    model, engine = steady_network(name), get_target(target)
    with torch.inference_mode():
        reference = Serving(model, SPEC)(torch.from_numpy(images)).numpy()
    graph = export_onnx(serving_module(model, SPEC, "deploy", engine.graph_form), tmp_path / "graph.onnx", SPEC)
    stream = CalibrationStream(lambda: (image[None] for image in images), list, "four", "96x64", tmp_path / "ranges")
    agreement = {}
    for precision in (Precision.FP32, Precision.INT8):
        folder = tmp_path / precision
        folder.mkdir()
        artefact = engine.build(BuildRequest(graph, precision, folder, SPEC, calibration=stream))
        with engine.load(artefact.files[0], SPEC, threads=2) as session:  # one: OpenVINO crashes in close
            agreement[precision] = float(np.mean(session(images) == reference))
    assert agreement[Precision.FP32] >= 0.9999
    assert agreement[Precision.INT8] >= 0.85
