"""A PyTorch module that is not fptk's, traced into an ONNX file that goes the way of any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fptk.core.errors import InputError
from fptk.core.files import kind_of
from fptk.core.preprocess import PreprocessSpec
from fptk.export.onnx import write_traced
from fptk.export.onnx_external import metadata_props
from fptk.models.checkpoint import first_fault

if TYPE_CHECKING:
    import torch

FILE = "network.onnx"
"""Name of the traced file, in the folder of the bundles."""

_MARK = "fptk.traced"
"""Metadata property of a file that may be replaced."""

_SCORES = ("out", "logits")
"""Where modules that return several tensors by name keep the scores."""


def trace_module(
    module: torch.nn.Module,
    folder: Path,
    preprocess: PreprocessSpec | Mapping[str, Any] | None,
    classes: int | str | Sequence[str] | None,
) -> tuple[Path, dict[str, Any]]:
    """Write a module as ``network.onnx``.

    Args:
        module: takes float32 (N, 3, H, W), RGB, normalized as ``preprocess`` says; returns scores (N, C, h, w), alone,
            first of several, or as ``out`` or ``logits``. It is left in the mode that it was in.
        folder: where the file goes; made where it is not there.
        preprocess: ``size``, ``mean``, ``std`` and ``resize`` of :class:`fptk.core.preprocess.PreprocessSpec`.
        classes: names in the order of the labels, how many there are, or a list that ships.

    Returns:
        The file, and what it does not say of itself (:mod:`fptk.export.foreign.description`).

    Raises:
        InputError: preprocessing or classes are not given or not valid, torch cannot trace the module, or the folder
            holds a ``network.onnx`` that is not of this function.
    """
    if preprocess is None or classes is None:
        lacking = "preprocess" if preprocess is None else "classes"
        raise InputError(f"a module does not say its {lacking}; give {lacking}=, see fptk.build")
    spec, path = _spec(preprocess), folder / FILE
    if kind_of(path, "network") is not None and _MARK not in metadata_props(path):
        raise InputError(f"{path} exists and was not traced by fptk; choose another out=")
    folder.mkdir(parents=True, exist_ok=True)
    _write(module, spec, path)
    described = {"channels": "rgb", "mean": spec.mean, "std": spec.std, "resize": spec.resize, "classes": classes}
    return path, {**described, "name": type(module).__name__}


def _spec(preprocess: PreprocessSpec | Mapping[str, Any]) -> PreprocessSpec:
    if isinstance(preprocess, PreprocessSpec):
        return preprocess
    try:
        return PreprocessSpec.model_validate(dict(preprocess))
    except ValidationError as error:
        raise InputError(f"preprocess: {first_fault(error)}") from error


def _write(module: torch.nn.Module, spec: PreprocessSpec, path: Path) -> None:
    import torch

    class Scores(torch.nn.Module):
        """The module, with its scores as the only output."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = scores_of(self.inner(images))
            return scores

    training = module.training
    try:
        write_traced(Scores(), torch.zeros(1, 3, *spec.size), path, output="scores", metadata={_MARK: "yes"})
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for what it cannot trace
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{type(module).__name__} cannot be traced: {reason}; export it to ONNX yourself") from error
    finally:
        module.train(training)


def scores_of(output: Any) -> Any:
    """The tensor of scores in what a module returned.

    Raises:
        TypeError: there is none.
    """
    if hasattr(output, "shape"):
        return output
    if isinstance(output, Mapping):
        return next((output[name] for name in _SCORES if name in output), next(iter(output.values())))
    found = next((getattr(output, name) for name in _SCORES if hasattr(output, name)), None)
    if found is None and isinstance(output, Sequence) and output:
        found = output[0]
    if found is None:
        raise TypeError(f"it returned a {type(output).__name__} and no tensor of scores")
    return found
