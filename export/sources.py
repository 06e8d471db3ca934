"""The kinds of network that an export starts from: a checkpoint of fptk's, or any ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fptk.core.errors import missing_package
from fptk.core.files import sha256_file
from fptk.core.session import Session
from fptk.data.class_file import class_set_of
from fptk.export.foreign.source import OnnxSource
from fptk.export.network_source import GraphRequest, NetworkCard, NetworkSource
from fptk.export.onnx import export_onnx, serving_module
from fptk.models.checkpoint import load_checkpoint
from fptk.runs.source import ModelSource


class CheckpointSource(NetworkSource):
    """A network of fptk's; the reference is PyTorch.

    Args:
        weights: ``.safetensors`` checkpoint.

    Raises:
        InputError: the weights are not usable, or torch is not installed.
    """

    def __init__(self, weights: Path) -> None:
        try:
            self.network, card = load_checkpoint(weights)
        except ImportError as error:
            raise missing_package(error.name or "torch", "export") from error
        self.card = NetworkCard(card.model, card.options, card.num_parameters, card.preprocess, card.class_set)
        self.checkpoint_sha256 = sha256_file(weights)

    def write_onnx(self, path: Path, request: GraphRequest) -> dict[str, Any]:
        spec = self.card.preprocess
        metadata = self.card.metadata(request.graph, self.checkpoint_sha256)
        module = serving_module(self.network, spec, request.graph, request.form)
        export_onnx(module, path, spec, metadata=metadata, batch=request.batch)
        return {}

    def session(self, threads: int | None = None) -> Session:
        from fptk.models.torch_session import TorchSession

        return TorchSession(self.network, self.card.preprocess, threads=threads, classes=self.card.classes)


def open_network(source: ModelSource, data: Path | None = None) -> NetworkSource:
    """Open what a model's source names: its suffix says which kind it is.

    Args:
        source: the weights, and what describes them.
        data: data set whose class names an ONNX file takes that states their number alone.

    Raises:
        InputError: it is not usable, or a package that it needs is not installed.
    """
    if source.is_onnx:
        return OnnxSource(source.weights, source.network, class_set_of(data) if data else None)
    return CheckpointSource(source.weights)
