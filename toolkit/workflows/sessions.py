"""Opening what a command or a program works with: a bundle's engine, or a network in PyTorch."""

from __future__ import annotations

from pathlib import Path

from fptk.core.errors import InputError
from fptk.core.files import kind_of
from fptk.core.session import Session
from fptk.export.bundle import MANIFEST, open_bundle
from fptk.runs.folder import RunFolder
from fptk.runs.source import ModelSource, find_source, run_of, torch_session


def is_bundle(model: Path) -> bool:
    """Whether the path of a model is a bundle folder, and not a run or a checkpoint."""
    return kind_of(model, "model") == "folder" and kind_of(model / MANIFEST, "manifest") is not None


def open_model(
    model: Path | None, threads: int | None = None, data: Path | None = None
) -> tuple[Session, ModelSource | None]:
    """The engine of a bundle, or a network in FP32: in PyTorch, or an ONNX file in ONNX Runtime.

    Args:
        model: bundle folder, run folder, checkpoint or ONNX file; ``None`` for the newest run, or else the shipped
            weights.
        threads: CPU threads of one inference; ``None`` for all cores.
        data: data set whose class names an ONNX file takes that states their number alone.

    Returns:
        The session, and the weights that it came from: for a bundle those of the run that it stands in, if any.

    Raises:
        InputError: there is no such model, it is damaged, or torch is not installed.
        TargetUnavailableError: this host cannot run the bundle.
    """
    if model is not None and is_bundle(model):
        return open_bundle(model, threads=threads)[1], run_of(model)
    if model is not None and kind_of(model, "model") == "folder" and not RunFolder(model).card.exists():
        raise InputError(f"{model} is neither a bundle (no {MANIFEST}) nor a run (no {RunFolder(model).card.name})")
    source = find_source(model)
    return network_session(source, threads, data), source


def network_session(source: ModelSource, threads: int | None = None, data: Path | None = None) -> Session:
    """The reference of a network: itself in PyTorch FP32, or an ONNX file as it is in ONNX Runtime.

    Arguments as for :func:`open_model`.

    Raises:
        InputError: it is not usable, or torch is not installed.
    """
    if source.is_onnx:
        from fptk.export.sources import open_network

        return open_network(source, data).session(threads)
    return torch_session(source.weights, threads)
