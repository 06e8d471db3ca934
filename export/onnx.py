"""PyTorch to ONNX: one file with preprocessing's normalisation inside, uint8 images in, uint8 label map out."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fptk.core.errors import missing_package
from fptk.core.files import atomic_file
from fptk.core.preprocess import PreprocessSpec

if TYPE_CHECKING:
    import torch

    from fptk.export.bundle import Graph
    from fptk.models.engine_form import EngineForm
    from fptk.models.network import FaceParsingNetwork

OPSET = 20
"""Lowest opset with native LayerNormalization *and* Gelu; from 23 on the exporter emits an Attention op that
TensorRT-RTX rejects."""

INPUT_NAME = "images"
OUTPUT_NAME = "labels"


def serving_module(
    network: FaceParsingNetwork, spec: PreprocessSpec, graph: Graph, form: EngineForm
) -> torch.nn.Module:
    """What is exported: uint8 images to uint8 labels, around the rewritten network or around the one as written.

    Args:
        network: as loaded from a checkpoint.
        spec: normalization, put inside.
        graph: ``deploy`` or ``original``.
        form: how the engine wants the deploy form.
    """
    from fptk.models.deploy import to_deploy
    from fptk.models.deploy.serving import Serving

    return Serving(to_deploy(network, engine=form) if graph == "deploy" else network.original(), spec)


def export_onnx(
    module: torch.nn.Module,
    path: Path,
    spec: PreprocessSpec,
    *,
    batch: int | None = 1,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``module`` as ONNX (opset 20, weights inside the file).

    Args:
        module: takes uint8 (N, H, W, 3), returns labels uint8 (N, H, W): :class:`fptk.models.deploy.serving.Serving`.
        path: file to write, whole or not at all.
        spec: preprocessing; its size fixes H and W.
        batch: N; ``None`` leaves it open, which some engines pay for in speed.
        metadata: written into the file's metadata properties.

    Raises:
        InputError: ``onnx`` or ``onnxscript`` is not installed, or the path cannot be written.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_package("torch", "export") from error

    height, width = spec.size
    # An open batch must be traced with two samples: the exporter takes a 1 for a constant.
    sample = torch.zeros((batch or 2, height, width, 3), dtype=torch.uint8)
    dynamic = None if batch else ({0: torch.export.Dim("batch")},)
    return write_traced(module, sample, path, output=OUTPUT_NAME, dynamic=dynamic, metadata=metadata)


def write_traced(
    module: torch.nn.Module,
    sample: torch.Tensor,
    path: Path,
    *,
    output: str,
    dynamic: tuple[dict[int, Any], ...] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Trace a module of one input and one output, and write it as ONNX (opset 20, weights inside the file).

    Args:
        module: what is traced, in evaluation mode.
        sample: an input.
        path: file to write, whole or not at all.
        output: name of the output; the input is :data:`INPUT_NAME`.
        dynamic: open dimensions of the input, as ``torch.onnx.export`` takes them.
        metadata: written into the file's metadata properties.

    Raises:
        InputError: ``onnx`` or ``onnxscript`` is not installed, or the path cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it and explains its absence badly
        import torch
    except ImportError as error:
        raise missing_package(error.name or "onnx", "export") from error

    with _quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            (sample,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[output],
            dynamic_shapes=dynamic,
            external_data=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    model = program.model_proto
    model.producer_name = "fptk"
    for noted in (*model.graph.node, *model.graph.value_info):
        del noted.metadata_props[:]  # where in this machine's files the exporter found each: nobody's business
    for entry in (model.graph.input, model.graph.output):
        if len(entry) != 1:
            raise RuntimeError(f"expected one input and one output, the graph has {[value.name for value in entry]}")
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    with atomic_file(path) as temporary:
        onnx.save(model, temporary)
    return path


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter prints its steps and deprecations of its own insides; neither helps a user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
