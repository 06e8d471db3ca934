"""The exported deploy form in real engines: it compiles, and its numbers are those of the original network.

The OpenVINO cases are regression tests. Version 2026.4.1 crashes on the folded attention with 3-D tensors and a
mask; returns wrong numbers for the 4-D form where keys, values and mask come from separate Linears and a residual
follows; and, run by two threads, takes one product's packed weights for another's where a graph uses a square matrix
both as it is and transposed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fptk.calibration.onnx_graph import load_float_model, logits_tensor
from fptk.core.preprocess import PreprocessSpec
from fptk.export.onnx import export_onnx
from fptk.models import create_model, list_models
from fptk.models.deploy import REWRITES, to_deploy
from fptk.models.deploy.serving import Serving
from fptk.models.engine_form import ENGINES

from .closeness import assert_close, assert_same_labels

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


def run_onnxruntime(path: Path, images: np.ndarray, threads: int) -> Any:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def compile_openvino(path: Path, threads: int) -> Any:
    ov = pytest.importorskip("openvino", reason="openvino is not installed")
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
    return ov.Core().compile_model(path, "CPU", config)


def run_openvino(path: Path, images: np.ndarray, threads: int) -> Any:
    return compile_openvino(path, threads)([images])[0].copy()


RUN = {
    "onnxruntime": run_onnxruntime,
    "onnxruntime-int8": run_onnxruntime,
    "openvino": run_openvino,
    "openvino-int8": run_openvino,
    "openvino-bf16": run_openvino,
}
"""Forms, and how their graph is run: in float32, which shows what the form itself changes."""


def check(engine: str, size: tuple[int, int], rewrites: list[str], folder: Path, model: Any) -> None:
    spec = PreprocessSpec(size=size)
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    form = to_deploy(model, engine=engine, rewrites=rewrites)
    with torch.inference_mode():
        reference = Serving(model.original(), spec, "logits")(torch.from_numpy(images))
    logits_path = export_onnx(Serving(form, spec, "logits"), folder / "logits.onnx", spec)
    labels_path = export_onnx(Serving(form, spec), folder / "labels.onnx", spec)
    for threads in (1, 2):
        logits = RUN[engine](logits_path, images, threads)
        assert_close(ENGINES[engine], torch.from_numpy(logits), reference, 1e-5, f"{threads} threads")
        labels = RUN[engine](labels_path, images, threads)
        assert_same_labels(ENGINES[engine], torch.from_numpy(labels), reference, f"{threads} threads")


@pytest.mark.slow
@pytest.mark.parametrize("engine", RUN)
@pytest.mark.parametrize("lmsa", ["compact", "multiscale", None])
def test_deploy_form_keeps_its_numbers(engine: str, lmsa: str | None, tmp_path: Path, trained_like: Any) -> None:
    check(engine, (128, 128), list(REWRITES), tmp_path, trained_like(create_model(lmsa=lmsa)))


@pytest.mark.slow
@pytest.mark.parametrize("engine", RUN)
@pytest.mark.parametrize("size", [(512, 512), (256, 256), (96, 160)])
def test_deploy_form_keeps_its_numbers_at_size(
    engine: str, size: tuple[int, int], tmp_path: Path, trained_like: Any
) -> None:
    check(engine, size, list(REWRITES), tmp_path, trained_like(create_model()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folded_attention", "folded_norms", "merged_decoder", "classifier_first"])
def test_single_rewrite_keeps_its_numbers_in_openvino(name: str, tmp_path: Path, trained_like: Any) -> None:
    check("openvino", (64, 96), [name], tmp_path, trained_like(create_model()))


@pytest.mark.slow
@pytest.mark.parametrize("engine", RUN)
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in list_models() if name != "microsegformer"), ("segformer", {"head": "transpose"})],
)
def test_every_network_keeps_its_numbers(
    name: str, options: dict[str, str], engine: str, tmp_path: Path, trained_like: Any
) -> None:
    check(engine, (96, 160), list(REWRITES), tmp_path, trained_like(create_model(name, **options)))


@pytest.mark.slow
def test_openvino_rearranges_nothing_as_large_as_a_map(tmp_path: Path) -> None:
    """What the OpenVINO form is written for: layouts that meet, so that no map is copied from one to the other.

    The plugin names a reorder that only relabels memory "fake".
    """
    spec = PreprocessSpec(size=(256, 256))
    path = export_onnx(Serving(to_deploy(create_model(), engine="openvino"), spec), tmp_path / "net.onnx", spec)
    smallest_map = 32 * 64 * 64  # the first stage's
    sizes = {
        node.get_friendly_name(): int(np.prod(list(node.output(0).get_shape())))
        for node in compile_openvino(path, 2).get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("Reorder", "Transpose")
    }
    assert sizes, "the labels' transpose, at least"
    copies = {name: size for name, size in sizes.items() if not name.endswith("fake")}
    assert {name: size for name, size in copies.items() if size >= smallest_map} == {}


@pytest.mark.slow
def test_labels_of_an_empty_scene_and_of_an_open_batch_run_in_onnxruntime(tmp_path: Path, trained_like: Any) -> None:
    """One label everywhere leaves no pixel to interpolate; a batch takes its images apart again."""
    model, spec = trained_like(create_model()), PreprocessSpec(size=(64, 96))
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    path = export_onnx(Serving(to_deploy(model), spec), tmp_path / "open.onnx", spec, batch=None)
    with torch.inference_mode():
        assert (run_onnxruntime(path, images, 1) == Serving(model, spec)(torch.from_numpy(images)).numpy()).all()
        model.classifier.bias[5] += 1e4
    path = export_onnx(Serving(to_deploy(model), spec), tmp_path / "empty.onnx", spec)
    assert (run_onnxruntime(path, images[:1], 1) == 5).all()


@pytest.mark.slow
def test_compared_logits_do_not_depend_on_the_image(tmp_path: Path) -> None:
    spec = PreprocessSpec(size=(64, 96))
    path = export_onnx(Serving(to_deploy(create_model()), spec), tmp_path / "net.onnx", spec)
    model = load_float_model(path)
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in model.graph.value_info}
    assert shapes[logits_tensor(model)] == [16 * 24, 19]
