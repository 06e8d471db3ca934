"""Validation during a training, and the checkpoints that it leaves."""

from __future__ import annotations

from pathlib import Path

import torch

from fptk.dataset import FaceParsingDataset
from fptk.evaluate import evaluate
from fptk.models import CheckpointCard, TorchSession, count_parameters, save_checkpoint
from fptk.models.network import FaceParsingNetwork
from fptk.preprocess import PreprocessSpec
from fptk.recipes import Recipe
from fptk.training.progress import Listener
from fptk.training.runs import RunFolder
from fptk.training.schedule import Plan
from fptk.training.state import Counters

SCORES = ("f1", "f1_challenge", "miou", "f1_nobg", "pixel_accuracy")
"""Validation scores that are recorded."""


def score(
    model: FaceParsingNetwork,
    spec: PreprocessSpec,
    dataset: FaceParsingDataset,
    device: torch.device,
    listener: Listener,
) -> dict[str, float]:
    """Scores of ``model`` on ``dataset`` at the size of ``spec``, through the evaluation of every engine."""
    total = len(dataset)
    with TorchSession(model, spec, device=str(device)) as session:
        scores = evaluate(session, dataset, on_image=lambda done: listener.step(0, f"validating {done}/{total}"))
    return {name: getattr(scores, name) for name in SCORES}


def save_weights(
    path: Path,
    model: FaceParsingNetwork,
    recipe: Recipe,
    spec: PreprocessSpec,
    plan: Plan,
    run: RunFolder,
    counters: Counters,
    scores: dict[str, float],
) -> None:
    """Write ``model`` with a card that says what it is, how it came about and what it scores.

    Raises:
        InputError: it cannot be written.
    """
    started = run.read()
    facts = ("data", "train_set", "train_images", "val_set", "val_images", "init_weights", "init_sha256", "created")
    card = CheckpointCard(
        model=recipe.model.name,
        options=model.options,
        num_parameters=count_parameters(model),
        preprocess=spec,
        epoch=int(plan.epoch_before(counters.step)),
        step=counters.step,
        metrics=scores,
        recipe=recipe.model_dump(mode="json"),
        weights="ema" if recipe.optim.ema else "raw",
        training={
            **{name: started.get(name) for name in facts},
            "images_seen": plan.images_before(counters.step),
            "seconds": round(counters.seconds, 1),
        },
    )
    save_checkpoint(path, model.state_dict(), card)
