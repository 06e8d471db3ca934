"""What a training leaves for another machine, its averaged weights above all, however it ended.

``python -m fptk.workflows.gpu_weights RUN OUT`` copies ``best.safetensors``, ``last.safetensors`` and
``metrics.jsonl``. A training that was stopped has no ``last.safetensors`` yet: then its average is taken out of the
resume state.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fptk.core.errors import FptkError, InputError
from fptk.core.files import make_folder
from fptk.core.preprocess import PreprocessSpec
from fptk.runs.folder import RunFolder


def take_weights(run: RunFolder, out: Path) -> list[str]:
    """Copy weights with their cards, and the record of the training.

    Args:
        run: a training, ended or stopped.
        out: folder that the files are copied into.

    Returns:
        Names of the files.

    Raises:
        InputError: there is nothing to take, or a file is damaged or cannot be written.
    """
    make_folder(out)
    taken = []
    for path in (
        run.metrics,
        *(p for weights in (run.best, run.last) for p in (weights, weights.with_suffix(".json"))),
    ):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
            taken.append(path.name)
    if not run.last.is_file() and run.resume.is_file():
        save_average(run, out / run.last.name)
        taken += [run.last.name, run.last.with_suffix(".json").name]
    if not taken:
        raise InputError(f"{run.path} holds no weights; the training stopped before its first save")
    return taken


def save_average(run: RunFolder, path: Path) -> None:
    """Write the averaged weights of the last saved step as a checkpoint, or the weights themselves without an average.

    Args:
        run: a training that was stopped.
        path: ends in ``.safetensors``.

    Raises:
        InputError: the run card or the resume state is missing or damaged, or the file cannot be written.
    """
    import torch

    from fptk.models import CheckpointCard, count_parameters, create_model, save_checkpoint
    from fptk.training.resume import load_state

    recipe, facts = run.recipe(), run.read()
    network, average = (create_model(recipe.model.name, **recipe.model.options) for _ in range(2))
    averaged = recipe.optim.ema is not None
    counters, _ = load_state(
        run.resume, network, average if averaged else None, lambda _: torch.optim.AdamW(network.parameters())
    )
    model = average if averaged else network
    card = CheckpointCard(
        model=recipe.model.name,
        options=model.options,
        num_parameters=count_parameters(model),
        preprocess=_spec(run),
        step=counters.step,
        recipe=recipe.model_dump(mode="json"),
        weights="ema" if averaged else "raw",
        training={name: facts.get(name) for name in ("train_set", "train_images", "val_set", "val_images", "created")},
    )
    save_checkpoint(path, model.state_dict(), card)


def _spec(run: RunFolder) -> PreprocessSpec:
    """Preprocessing of the run: the best weights' own, or before the first validation what the recipe gives."""
    from fptk.models import read_card

    if run.best.is_file():
        return read_card(run.best).preprocess
    recipe = run.recipe()
    if recipe.preprocess.statistics == "measured":
        raise InputError(f"{run.path} measured its normalization and has no validated weights to tell it; train longer")
    return PreprocessSpec(size=recipe.data.size, mean=recipe.preprocess.mean, std=recipe.preprocess.std)


def main(arguments: list[str]) -> int:
    """Copy what the run that is named left; the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m fptk.workflows.gpu_weights RUN OUT\n")
        return 2
    try:
        sys.stdout.write("\n".join(take_weights(RunFolder(Path(arguments[0])), Path(arguments[1]))) + "\n")
    except FptkError as error:
        sys.stderr.write(f"gpu_weights: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
