"""Finding what a command works on: the run folder, its checkpoint, and the data it was trained with.

With no argument, commands take the newest run below ``runs/``, or else the weights that ship with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError, missing_package
from fptk.core.files import kind_of
from fptk.core.session import Session
from fptk.data import open_evaluation, open_training
from fptk.models.checkpoint import read_card
from fptk.recipes import Recipe, recipe_from
from fptk.recipes.loading import shipped
from fptk.runs.data import open_data
from fptk.runs.folder import CARD, DEFAULT_ROOT, RunFolder

ONNX = ".onnx"
"""Suffix of a network that is not fptk's."""


@dataclass(frozen=True)
class ModelSource:
    """Weights and where they come from."""

    weights: Path
    folder: Path
    """Where the results of later stages go: the run's folder, or a new one named after the weights."""
    recipe: Recipe
    data: tuple[Path, ...]
    """Data folders that the weights were trained on; empty for synthetic faces and for weights of no run."""
    is_run: bool
    network: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What describes an ONNX file beside its own ``network.yaml``."""

    @property
    def is_onnx(self) -> bool:
        """Whether the weights are an ONNX file, and no checkpoint of fptk's."""
        return self.weights.suffix == ONNX

    def evaluation_set(self, data: Path | None) -> FaceParsingDataset | None:
        """The validation images: of ``data`` if given, else those of the run; ``None`` for weights of no run."""
        if data:
            return open_evaluation(data)
        if not self.is_run:
            return None
        return self._run_data[1]

    def training_set(self, data: Path | None) -> FaceParsingDataset | None:
        """The images that calibration may choose from: never those of :meth:`evaluation_set`."""
        if self.is_run and (self.data or not data):
            return self._run_data[0]
        return open_training([data])[0] if data else None

    @cached_property
    def _run_data(self) -> tuple[FaceParsingDataset, FaceParsingDataset]:
        """Both sets of the run, opened once: opening compares every image of one with those of the other."""
        return open_data(self.recipe, self.data)


def find_source(
    weights: Path | None, runs: Path = DEFAULT_ROOT, network: Mapping[str, Any] | None = None
) -> ModelSource:
    """Resolve MODEL (a checkpoint, a run folder or an ONNX file), or find the newest run, or the shipped weights.

    Weights of no run bring the recipe in their card; an ONNX file gets the defaults.

    Args:
        weights: what was given, if anything.
        runs: folder of runs.
        network: what describes an ONNX file beside its own ``network.yaml``.

    Raises:
        InputError: there is nothing, ``weights`` is neither, or a card is damaged.
    """
    if network and (weights is None or weights.suffix != ONNX):
        raise InputError(f"--network describes an ONNX file, and MODEL is {weights or 'not given'}; leave it out")
    if weights is None:
        run = newest_trained_run(runs)
        if run:
            return _from_run(run, run.best)
        packaged = shipped_weights()
        if packaged is None:
            raise InputError(f"there is no trained run below {runs}/ and no MODEL was given; run `fptk train` first")
        weights = packaged
    kind = kind_of(weights, "weights")
    if kind == "folder":
        return _from_run(RunFolder(weights), RunFolder(weights).best)
    if kind != "file":
        fault = "do not exist" if kind is None else "are no regular file"
        raise InputError(f"weights {weights} {fault}; give a .safetensors checkpoint, a run folder or an ONNX file")
    if weights.suffix == ONNX:
        return ModelSource(weights, runs / weights.stem, Recipe(), (), is_run=False, network=dict(network or {}))
    run = RunFolder(weights.parent)
    if run.card.is_file():
        return _from_run(run, weights)
    return ModelSource(weights, runs / weights.stem, _recipe_of(weights), (), is_run=False)


def _recipe_of(weights: Path) -> Recipe:
    """The recipe in a checkpoint's card; where it holds none, the shipped one that is named like the card's network.

    A network without a recipe of its name gets the defaults. Whether fptk knows it at all is found out when it is
    built.

    Raises:
        InputError: the checkpoint has no sound card, or the recipe in it is not valid.
    """
    card = read_card(weights)
    if card.recipe:
        return recipe_from(card.recipe, f"in checkpoint {weights}")
    return Recipe.load(card.model) if card.model in shipped("fptk.recipes") else Recipe()


def newest_trained_run(runs: Path = DEFAULT_ROOT) -> RunFolder | None:
    """The run below ``runs`` whose best checkpoint is newest; ``None`` where no run has one."""
    trained = [run for card in runs.glob(f"*/{CARD}") if (run := RunFolder(card.parent)).best.is_file()]
    return max(trained, key=lambda run: run.best.stat().st_mtime, default=None)


def shipped_weights() -> Path | None:
    """The checkpoint inside the package, if this build has one."""
    path = Path(str(resources.files("fptk.models"))) / "weights" / "microsegformer.safetensors"
    return path if path.is_file() else None


def _from_run(run: RunFolder, weights: Path) -> ModelSource:
    if not weights.is_file():
        raise InputError(f"{run.path} holds no {weights.name}: no training has reached its first validation there")
    return ModelSource(weights, run.path, run.recipe(), tuple(run.data()), is_run=True)


def torch_session(weights: Path, threads: int | None = None) -> Session:
    """The network of a checkpoint in PyTorch FP32.

    Raises:
        InputError: the checkpoint is not usable, or torch is not installed.
    """
    try:
        from fptk.models.torch_session import TorchSession
    except ImportError as error:
        raise missing_package("torch", "train") from error
    from fptk.models.checkpoint import load_checkpoint

    network, card = load_checkpoint(weights)
    return TorchSession(network, card.preprocess, threads=threads, classes=card.class_set)


def run_of(bundle: Path) -> ModelSource | None:
    """The run that a bundle folder stands in; ``None`` for one that was copied elsewhere."""
    run = RunFolder(bundle.resolve().parent.parent)
    return _from_run(run, run.best) if run.card.is_file() and run.best.is_file() else None
