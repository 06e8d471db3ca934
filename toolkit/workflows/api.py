"""The public API: what ``import fptk`` offers, and what the command line calls.

Results are values. An engine that the gate refuses comes back with its verdict; nothing is raised for it. Nothing is
printed unless a listener is passed, and files are written only where the caller says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from fptk.calibration.gate import GatePolicy
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError
from fptk.core.evaluation import evaluate as evaluate_session
from fptk.core.evaluation import predict as predict_image
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec, read_image
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session
from fptk.recipes import Recipe
from fptk.runs.folder import TrainResult
from fptk.runs.source import find_source

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

    from fptk.benchmarks.report import BenchReport
    from fptk.export.bundle import Bundle
    from fptk.export.exporter import Bundles
    from fptk.workflows.verify import Verification

AnyPath = str | os.PathLike[str]
Model = Union[TrainResult, "Bundle", AnyPath]
"""What names a model: the result of :func:`train`, a bundle, or the path of a checkpoint, run or bundle folder."""
Data = FaceParsingDataset | AnyPath

FROM_RECIPE = GatePolicy()
"""Default of :func:`build`: the gate that the run's recipe describes."""


def train(
    recipe: Recipe,
    data: AnyPath | Sequence[AnyPath] = (),
    out: AnyPath | None = None,
    *,
    resume: bool = False,
    init_weights: Model | None = None,
    stop_after: int | None = None,
    profile: bool = False,
    listener: Listener = SILENT,
) -> TrainResult:
    """Train a network into a run folder.

    Args:
        recipe: what to do; see :meth:`fptk.Recipe.load`.
        data: data set folder or several of them; empty for the recipe's synthetic faces.
        out: run folder, new or empty; ``None`` is ``runs/RECIPE-TIME``.
        resume: go on with the run in ``out`` where there is one.
        init_weights: checkpoint or run to start from instead of random weights.
        stop_after: end after this many steps of this call, with the state saved.
        profile: tell ``listener`` at the end where the time of a step went.
        listener: hears of the progress.

    Returns:
        Folder, scores and length of the training.

    Raises:
        InputError: recipe, data, folder or weights are not usable.
        TrainingInterruptedError: SIGINT or SIGTERM came; the state is saved.
    """
    from fptk.runs.folder import default_folder
    from fptk.training.start import train as train_recipe

    folders = [data] if isinstance(data, str | os.PathLike) else data
    return train_recipe(
        recipe,
        [Path(folder) for folder in folders],
        Path(out) if out is not None else default_folder(recipe),
        resume=resume,
        init_weights=None if init_weights is None else _path(init_weights),
        stop_after=stop_after,
        profile=profile,
        listener=listener,
    )


def load(model: Model | None = None, *, threads: int | None = None) -> Session:
    """Load a network or an engine.

    Args:
        model: a training's result, a bundle, or the path of a run folder, a ``.safetensors`` checkpoint or a bundle;
            ``None`` is the newest run below ``runs/``, or else the shipped weights.
        threads: CPU threads of one inference; ``None`` for the engine's default.

    Returns:
        ``labels = session(images)``: uint8 (N, H, W, 3) RGB of ``session.spec.size`` to uint8 (N, H, W). A bundle gives
        its engine, anything else the network in PyTorch FP32.

    Raises:
        InputError: there is no such model, or it is damaged.
        TargetUnavailableError: this host cannot run the engine.
    """
    from fptk.workflows.sessions import open_model

    return open_model(None if model is None else _path(model), threads)[0]


def evaluate(session: Session, data: Data, *, images: int | None = None, listener: Listener = SILENT) -> Scores:
    """Score a network or an engine.

    Args:
        session: see :func:`load`.
        data: a data set, or the path of one: a folder of ``images/`` and ``masks/``, or a root with a ``val`` split.
        images: score on so many images, evenly spaced; ``None`` is all.
        listener: hears of the progress.

    Returns:
        mIoU, F1 scores and the scores per class, all 0-1.

    Raises:
        InputError: the data cannot be read.
    """
    from fptk.data import open_evaluation
    from fptk.data.splits import limit

    dataset = open_evaluation(Path(data)) if isinstance(data, str | os.PathLike) else data
    return evaluate_session(session, limit(dataset, images), listener=listener)


def predict(session: Session, image: UInt8Array | AnyPath) -> UInt8Array:
    """Label one photograph at its own size.

    Args:
        session: see :func:`load`.
        image: uint8 (H, W, 3) RGB, or the path of an image file.

    Returns:
        Labels, uint8 (H, W): indices into ``session.classes.names``.

    Raises:
        InputError: the file is no image.
    """
    pixels = read_image(Path(image)) if isinstance(image, str | os.PathLike) else image
    return predict_image(session, pixels)


def build(
    model: Model | torch.nn.Module | None = None,
    *,
    targets: Sequence[str] = ("onnx", "openvino"),
    precisions: Sequence[str] = ("fp32", "int8"),
    data: AnyPath | None = None,
    calibration: AnyPath | None = None,
    gate: GatePolicy | None = FROM_RECIPE,
    out: AnyPath | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network: Mapping[str, Any] | None = None,
    preprocess: PreprocessSpec | Mapping[str, Any] | None = None,
    classes: int | str | Sequence[str] | None = None,
    command: str = "fptk.build",
    listener: Listener = SILENT,
    **plan: Any,
) -> Bundles:
    """Build engines, score each as it was built, and judge it.

    Args:
        model: what to build from: a run, a checkpoint, an ONNX file, or a PyTorch module that is not fptk's (see
            :func:`fptk.export.foreign.traced.trace_module`); ``None`` as in :func:`load`.
        targets: names of engines, e.g. ``openvino``; ``all`` for every one that builds on this host.
        precisions: ``fp32``, ``bf16``, ``fp16``, ``int8``; each is built by the targets that have it.
        data: evaluation data; ``None`` takes the validation images of the run.
        calibration: data set or folder of photographs without masks to calibrate on, or a list of training images;
            ``None`` chooses from the training images of the run.
        gate: what an engine may lose; left out, the recipe's; ``None`` builds without judging.
        out: folder that gets ``bundles/`` and ``rejected/``; ``None`` is the run's own folder.
        options: by target, values of its options, e.g. ``{"openvino": {"cpu": "vnni"}}``.
        network: what an ONNX file does not say of itself, on top of the ``network.yaml`` beside it: fields of
            :class:`fptk.export.foreign.description.NetworkDescription`.
        preprocess: of a module: ``size``, ``mean``, ``std`` and ``resize`` of its images.
        classes: of a module: names of its labels in order, how many there are, or a list that ships.
        command: what the manifests name as the command that builds them again.
        listener: hears of the progress.
        **plan: further fields of :class:`fptk.export.plan.ExportPlan`, e.g. ``eval_images=100``.

    Returns:
        One bundle per engine, refused ones included; see :class:`fptk.export.exporter.Bundles`.

    Raises:
        InputError: weights, data or an option are not usable, or weights of no run are given without ``out``.
    """
    from fptk.export.exporter import export
    from fptk.export.plan import ExportPlan, recipe_gate
    from fptk.export.targets.options import check_options
    from fptk.export.targets.registry import get_target, resolve_targets

    names = resolve_targets(targets)
    chosen = {name: dict(values) for name, values in (options or {}).items()}
    for name, values in chosen.items():
        check_options(get_target(name), values)
    path: Path | None
    if _is_module(model):
        path, network = _traced(model, out, preprocess, classes)
    elif preprocess is not None or classes is not None:
        raise InputError("preprocess= and classes= describe a PyTorch module; an ONNX file is described by network=")
    else:
        path = None if model is None else _path(model)
    source = find_source(path, network=network)
    if out is None and not source.is_run:
        raise InputError(f"{source.weights} belongs to no run; say with out= where the bundles go")
    section = source.recipe.export
    resolved = ExportPlan.of_recipe(
        section,
        targets=names,
        precisions=tuple(Precision(name) for name in precisions),
        out=source.folder if out is None else Path(out),
        command=command,
        data=None if data is None else Path(data),
        calib=None if calibration is None else Path(calibration),
        gate=recipe_gate(section) if gate is FROM_RECIPE else gate,
        options=chosen,
        **plan,
    )
    return export(source, resolved, listener)


def benchmark(
    bundles: Sequence[Bundle | AnyPath] | Bundle | AnyPath,
    *,
    data: AnyPath | None = None,
    images: int | None = None,
    rounds: int | None = None,
    threads: int | None = None,
    batch: int = 1,
    listener: Listener = SILENT,
    **request: Any,
) -> BenchReport:
    """Measure the speed of engines against each other, in turns, and with ``data`` their accuracy too.

    Args:
        bundles: one or several; a refused bundle without an engine becomes a row without figures.
        data: evaluation data; every engine is scored and judged on it.
        images: evaluate on so many images, evenly spaced; ``None`` is all.
        rounds: turns that each engine takes.
        threads: CPU threads of one inference; ``None`` is every core.
        batch: images in one call.
        listener: hears of the progress.
        **request: further fields of :class:`fptk.workflows.bench.BenchRequest`.

    Returns:
        Rows with the conditions they were measured under; ``print`` shows a table.

    Raises:
        InputError: a bundle or the data is damaged.
    """
    from fptk.workflows.bench import BenchRequest, bench_folders

    several = bundles if isinstance(bundles, Sequence) and not isinstance(bundles, str) else [bundles]
    asked = BenchRequest(
        data=None if data is None else Path(data),
        must_score=data is not None,
        eval_images=images,
        rounds=rounds,
        threads=threads,
        batch=batch,
        **request,
    )
    return bench_folders([_path(each) for each in several], asked, listener=listener)


def verify(
    bundle: Bundle | AnyPath,
    *,
    data: AnyPath | None = None,
    images: int | None = None,
    threads: int | None = None,
    listener: Listener = SILENT,
) -> Verification:
    """Check a bundle on this machine, and its engine against the golden samples that it holds.

    The engine runs in this process: one that crashes ends it. ``fptk verify`` gives each bundle a process of its own.

    Args:
        bundle: the bundle or its folder.
        data: evaluation data; the whole gate is run on it too.
        images: of ``data``, so many, evenly spaced; ``None`` is all.
        threads: CPU threads of one inference; ``None`` is the engine's default.
        listener: hears of the progress.

    Returns:
        The verdict (``pass``, ``refused``, ``damaged`` or ``cannot run``) with its reason, the checks and the figures.
        A bundle that is wrong raises nothing.

    Raises:
        InputError: ``data`` cannot be read.
    """
    from fptk.workflows.verify import VerifyPlan, verify_bundle

    plan = VerifyPlan(None if data is None else Path(data), images, threads)
    return verify_bundle(_path(bundle), plan.checked(listener), listener)


def _traced(
    module: torch.nn.Module,
    out: AnyPath | None,
    preprocess: PreprocessSpec | Mapping[str, Any] | None,
    classes: int | str | Sequence[str] | None,
) -> tuple[Path, Mapping[str, Any]]:
    """The ONNX file of a module, and its description."""
    from fptk.export.foreign.traced import trace_module

    if out is None:
        raise InputError("a module belongs to no run; say with out= where the bundles go")
    return trace_module(module, Path(out), preprocess, classes)


def _is_module(model: object) -> TypeIs[torch.nn.Module]:
    """Whether it is a PyTorch module; torch is imported already where there is one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _path(model: Model) -> Path:
    """Where a model lies."""
    if isinstance(model, TrainResult):
        return model.out
    return Path(model) if isinstance(model, str | os.PathLike) else model.folder
