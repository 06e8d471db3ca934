"""Opening what a command predicts or scores with: a bundle's engine, or weights in PyTorch."""

from __future__ import annotations

from pathlib import Path

from fptk.core.session import Session
from fptk.export.bundle import open_bundle
from fptk.runs.source import ModelSource, find_source, run_of, torch_session


def open_session(bundle: Path | None, weights: Path | None, threads: int | None) -> tuple[Session, ModelSource | None]:
    """The session of a bundle folder, or of weights in PyTorch FP32 together with where they come from.

    Args:
        bundle: folder of a bundle; None for weights.
        weights: checkpoint or run folder; None for the newest run, or else the shipped weights.
        threads: CPU threads of one inference; None for all cores.

    Raises:
        InputError: neither is usable, or torch is not installed.
        TargetUnavailableError: this host cannot run the bundle.
    """
    if bundle is not None:
        return open_bundle(bundle, threads=threads)[1], run_of(bundle)
    source = find_source(weights)
    return torch_session(source.weights, threads), source
