"""Starting a training: checks first, then a run folder with the best weights."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from fptk.core.classes import CELEBAMASK, NUM_CLASSES, ClassSet, check_same
from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError
from fptk.core.files import kind_of, make_folder, sha256_file
from fptk.core.progress import SILENT, Listener
from fptk.data.class_file import class_set_of
from fptk.data.identity import Identity, check_files, identity_of
from fptk.models import count_parameters, create_model, load_weights
from fptk.models.network import FaceParsingNetwork
from fptk.recipes import Recipe
from fptk.runs.data import open_data
from fptk.runs.folder import RunFolder, TrainResult
from fptk.runs.lock import RunLock
from fptk.training.batches import default_workers
from fptk.training.interrupt import TrainingInterruptedError
from fptk.training.machine import keep_freed_memory
from fptk.training.processes import by_first
from fptk.training.seeds import Stream, torch_seed
from fptk.training.trainer import Trainer


def train(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    *,
    resume: bool = False,
    init_weights: Path | None = None,
    stop_after: int | None = None,
    profile: bool = False,
    listener: Listener = SILENT,
) -> TrainResult:
    """Train a network.

    Under ``torchrun`` or ``accelerate launch`` every process calls this; the batch is divided among them.

    Args:
        recipe: what to do.
        data: data set roots or split folders; empty for the recipe's synthetic faces.
        out: run folder, new or empty.
        resume: go on with the run in ``out`` where there is one (a finished one is only reported).
        init_weights: checkpoint, or run folder with a ``best`` one, to start from instead of random weights.
        stop_after: end after this many steps of this call, with the state saved.
        profile: tell at the end where the time of a step went.
        listener: told of the progress; of several processes, only the first one's is.

    Raises:
        InputError: data, recipe, weights or folder are not usable, a file of the data is damaged or, on resume, not
            what it was, the network is over the budget, or another process trains in ``out``.
        TrainingInterruptedError: SIGINT or SIGTERM came; the state is saved.
        FptkError: the loss is no longer finite.
    """
    keep_freed_memory()
    accelerator = make_accelerator(recipe)
    run = RunFolder(by_first(accelerator, lambda: out))  # a name made of the time may differ between processes
    lock = RunLock(run.path)
    try:
        resume = by_first(accelerator, lambda: _resumes(run, recipe, data, resume))
        if resume and (finished := by_first(accelerator, lambda: _finished(run, data))) is not None:
            return TrainResult(out=run.path, **finished)
        if resume:
            by_first(accelerator, lock.acquire)
        listener = listener if accelerator.is_main_process else SILENT
        classes = classes_of(data)
        model = make_model(recipe, None if resume else init_weights, classes, listener)
        sets = open_data(recipe, data)
        identity = by_first(accelerator, lambda: _checked(recipe, sets, listener) if data else None)
        if resume:
            by_first(accelerator, lambda: _take_up(run, data, identity, classes))
            if (finished := by_first(accelerator, run.finished)) is not None:
                return TrainResult(out=run.path, **finished)
        facts = {**_facts(model, *sets, None if resume else init_weights), "data_identity": identity}
        trainer = Trainer(recipe, run, model, *sets, accelerator, listener, profile)
        if not resume:
            by_first(accelerator, lambda: _begin(run, lock, recipe, data, facts))
        try:
            trainer.restore()
            return trainer.run_to(stop_after)
        except KeyboardInterrupt:  # a second one: the first lets a step end
            raise TrainingInterruptedError(
                f"training stopped at once; it can go on from step {trainer.state.saved_step} with: "
                f"fptk train --resume --out {run.path}",
                signal.SIGINT,
            ) from None
    finally:
        lock.release()


def _resumes(run: RunFolder, recipe: Recipe, data: Sequence[Path], wanted: bool) -> bool:
    """Whether there is a run to go on with, of this recipe; otherwise the folder is checked to be free."""
    if wanted and kind_of(run.card, "run card") is not None:
        run.check_same(run.recipe_difference(recipe, data))
        return True
    run.check_free()
    return False


def _finished(run: RunFolder, data: Sequence[Path]) -> dict[str, Any] | None:
    """The result of a finished run, where nothing has to be read to see that ``data`` is its own."""
    return run.finished() if run.has_paths(data) else None


def _checked(
    recipe: Recipe, sets: tuple[FaceParsingDataset, FaceParsingDataset], listener: Listener
) -> Identity | None:
    """Look at every file before the first step: a damaged one would end the training when it comes to it.

    Raises:
        InputError: a file cannot be used.
    """
    total = sum(map(len, sets))
    listener.say(f"checking the files of {total} faces")
    workers = recipe.data.workers or default_workers(1) + 1
    check_files(*sets, workers=workers, what="checking", listener=listener)
    return identity_of(*sets, workers)


def _begin(run: RunFolder, lock: RunLock, recipe: Recipe, data: Sequence[Path], facts: dict[str, Any]) -> None:
    """Make the run folder; of two trainings that want the same one, only one gets it."""
    run.check_free()
    make_folder(run.path)
    lock.acquire()
    run.start(recipe, data, facts)


def _take_up(run: RunFolder, data: Sequence[Path], identity: Identity | None, classes: ClassSet) -> None:
    """Check that the faces and their classes are still the run's own, and note where they lie now."""
    began = ClassSet(names=run.read().get("classes") or CELEBAMASK.names)
    check_same(began, f"the training in {run.path}", classes, "its data")
    run.check_same(run.data_difference(data, identity))
    run.sweep()
    run.move_data(data)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Device, arithmetic and process group for this recipe.

    Raises:
        InputError: fp16 was asked for on a CPU.
    """
    cpu = not torch.cuda.is_available()
    amp = {"auto": "no" if cpu else "fp16", "off": "no"}.get(recipe.precision.amp, recipe.precision.amp)
    if cpu and amp == "fp16":
        raise InputError("precision.amp fp16 needs a CUDA GPU; on this CPU use bf16, auto or off")
    if cpu and recipe.data.device == "cuda":
        raise InputError("data.device cuda needs a CUDA GPU; on this CPU use cpu or auto")
    if not cpu:
        torch.backends.cudnn.benchmark = True  # a training has few image sizes, and each many steps
    # accelerate keeps one state per process and would refuse a second training of another precision.
    AcceleratorState._reset_state()
    # A channels-last network's gradients have other strides than their bucket, which is a copy, not a fault.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return Accelerator(cpu=cpu, mixed_precision=amp)


def make_model(
    recipe: Recipe, init_weights: Path | None, classes: ClassSet = CELEBAMASK, listener: Listener = SILENT
) -> FaceParsingNetwork:
    """The recipe's network for a class list, with seeded or given weights, inside the budget.

    Args:
        recipe: network, seed and budget.
        init_weights: see :func:`train`. Of weights for another class list, everything but the classifier is taken.
        classes: what its labels are to mean.
        listener: told where something is not taken.

    Raises:
        InputError: unknown network or option, over the budget, or weights that do not fit.
    """
    torch.manual_seed(torch_seed(recipe.seed, Stream.WEIGHTS))
    if recipe.model.options.get("num_classes", len(classes)) != len(classes):
        raise InputError(
            f"model.options.num_classes is {recipe.model.options['num_classes']}, the data set has {classes.words}: "
            "leave the option out, the data set decides"
        )
    sized = {"num_classes": len(classes)} if len(classes) != NUM_CLASSES else {}
    model = create_model(recipe.model.name, **{**recipe.model.options, **sized})
    count = count_parameters(model)
    budget = recipe.model.param_budget
    if count > budget:
        raise InputError(
            f"{recipe.model.name} has {count:,} parameters, {count - budget:,} over the budget of {budget:,}; "
            f"choose a smaller network, or allow it with --param-budget {count}"
        )
    if init_weights is not None:
        left = load_weights(model, checkpoint_of(init_weights), classes)
        if left:
            listener.say(f"{init_weights} has other classes than the data: taken but for {', '.join(left)}")
    return model


def classes_of(data: Sequence[Path]) -> ClassSet:
    """Class list of the data folders; CelebAMask-HQ's for drawn faces.

    Raises:
        InputError: two folders have different ones, or one is damaged.
    """
    found = [class_set_of(folder) for folder in data]
    for folder, other in zip(data[1:], found[1:], strict=True):
        check_same(found[0], str(data[0]), other, str(folder))
    return found[0] if found else CELEBAMASK


def checkpoint_of(path: Path) -> Path:
    """``path`` itself, or the best checkpoint of the run folder ``path``."""
    return RunFolder(path).best if kind_of(path, "weights") == "folder" else path


def _facts(
    model: FaceParsingNetwork, train_set: FaceParsingDataset, val_set: FaceParsingDataset, init_weights: Path | None
) -> dict[str, Any]:
    return {
        "parameters": count_parameters(model),
        "classes": train_set.classes.names,
        "train_set": train_set.name,
        "train_images": len(train_set),
        "val_set": val_set.name,
        "val_images": len(val_set),
        "init_weights": None if init_weights is None else str(init_weights),
        "init_sha256": None if init_weights is None else sha256_file(checkpoint_of(init_weights)),
    }
