"""Validation during a training: the scores, their record, and the checkpoints that they choose."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fptk.core.classes import ClassSet
from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.host import usable_cores
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.core.progress import Update, ignore
from fptk.models import CheckpointCard, TorchSession, count_parameters, save_checkpoint
from fptk.models.network import FaceParsingNetwork
from fptk.models.torch_session import label_maps
from fptk.runs.folder import RunFolder
from fptk.training.ahead import ahead
from fptk.training.curves import draw_curves
from fptk.training.losses import TERMS, LossSums, SegmentationLoss, joined, weighted
from fptk.training.processes import by_first
from fptk.training.state import TrainingState

SCORES = ("f1", "f1_challenge", "miou", "f1_nobg", "pixel_accuracy")
"""Validation scores that are recorded."""
ALWAYS_RECORDED = ("ce", "dice")
"""Terms of the loss that a record holds even where their weight is 0."""


GPU_BATCH = 16
"""Images that a GPU validates together; a CPU takes one after the other."""


def score(
    model: FaceParsingNetwork,
    spec: PreprocessSpec,
    dataset: FaceParsingDataset,
    device: torch.device,
    loss: SegmentationLoss,
    update: Update = ignore,
    batch: int | None = None,
) -> tuple[dict[str, float], float]:
    """Scores and loss of a network; both come from the same logits.

    The scores are those of :func:`fptk.core.evaluation.evaluate`. The loss is that of the whole data set as one batch,
    of logits and labels at the size of ``spec``.

    Args:
        model: evaluated in evaluation mode and put back into the mode it was in.
        spec: preprocessing; the network runs at its size.
        dataset: at least one image.
        device: where the network runs.
        loss: on ``device``.
        update: told how many images are done.
        batch: images that run together; None for one on a CPU and :data:`GPU_BATCH` on a GPU.

    Returns:
        The :data:`SCORES` by name, and the loss.

    Raises:
        InputError: a file of the data set is damaged.
    """
    matrix = ConfusionMatrix(dataset.classes)
    sums: list[LossSums] = []
    with TorchSession(model, spec, device=str(device)) as session, torch.inference_mode():
        gpu = device.type == "cuda"
        batch = batch or (GPU_BATCH if gpu else 1)
        for done, samples in _batched(dataset, batch, min(8, usable_cores()) if gpu else 0):
            logits = session.logits(np.stack([spec.apply(sample.image) for sample in samples]))
            for sample, labels in zip(samples, label_maps(logits), strict=True):
                height, width = sample.mask.shape
                matrix.add(sample.mask, resize_labels(labels, (height, width)))
            target = torch.from_numpy(np.stack([spec.apply_mask(sample.mask) for sample in samples])).to(device).long()
            sums.append(loss.sums(logits.float(), target))
            update(done)
        total = float(loss.of_sums(joined(sums)).total)
    scores = matrix.scores()
    return {name: getattr(scores, name) for name in SCORES}, total


def _batched(dataset: FaceParsingDataset, size: int, workers: int) -> Iterator[tuple[int, list[Sample]]]:
    """The samples in batches, and how many there were with each; ``workers`` threads read ahead."""
    samples: list[Sample] = []
    for done, sample in enumerate(ahead(dataset.__getitem__, len(dataset), workers), start=1):
        samples.append(sample)
        if len(samples) == size or done == len(dataset):
            yield done, samples
            samples = []


class Validated(NamedTuple):
    """What one validation found."""

    record: dict[str, Any]
    """The line of ``metrics.jsonl``."""
    best: bool
    """No validation before had a higher f1."""
    loss: float
    """Perhaps not finite."""

    def __str__(self) -> str:
        record = self.record
        return (
            f"step {record['step']} · epoch {record['epoch']:.1f} · {record['size']} px · loss {record['loss']:.4f} · "
            f"f1 {record['f1']:.4f} · f1_challenge {record['f1_challenge']:.4f} · mIoU {record['miou']:.4f} · "
            f"{record['images_per_s']:.1f} images/s{' · best' if self.best else ''}"
        )


class Validation:
    """Scores the averaged weights, records it, keeps the best ones, and says when to stop early.

    Args:
        state: what is validated; its counters are brought up to date.
        run: where the record, the curves and the best weights go; only the first process writes.
        dataset: validation images.
        loss: the training's own.
        spec: preprocessing of the network.
    """

    def __init__(
        self,
        state: TrainingState,
        run: RunFolder,
        dataset: FaceParsingDataset,
        loss: SegmentationLoss,
        spec: PreprocessSpec,
    ) -> None:
        self.state, self.run, self.dataset, self.loss, self.spec = state, run, dataset, loss, spec
        size = state.recipe.data.eval_size
        self._eval_spec = spec.model_copy(update={"size": size}) if size else spec

    def validate(self, update: Update = ignore) -> Validated:
        """Validate the weights after the last step; one process scores, and all get its scores.

        Args:
            update: told how many images are done.

        Raises:
            InputError: a file of the data set is damaged, or a result cannot be written.
        """
        started = time.perf_counter()
        state, counters = self.state, self.state.counters
        values, loss = by_first(
            state.accelerator,
            lambda: score(state.averaged, self._eval_spec, self.dataset, state.device, self.loss, update),
        )
        best = values["f1"] > counters.best_f1
        counters.stale = 0 if best else counters.stale + 1
        record = {**self._window(), "val_loss": loss if math.isfinite(loss) else None, **values}
        if best:
            counters.best_f1, counters.best_step, counters.best_scores = values["f1"], counters.step, values
        patience = state.recipe.early_stop.patience
        counters.stopped = patience is not None and counters.stale >= patience
        counters.seconds += time.perf_counter() - started
        if state.accelerator.is_main_process:
            if best:
                save_weights(self.run.best, state, self.spec, self.run, values, self.dataset.classes)
            self.run.append(record)
            draw_curves(self.run.records(), self.run.curves)
        return Validated(record, best, loss)

    def _window(self) -> dict[str, Any]:
        """What is known of the steps since the last validation."""
        state, counters = self.state, self.state.counters
        means = [counters.window_mean(name) for name in TERMS]
        used = {name: mean for name, mean in zip(TERMS, means, strict=True) if name in ALWAYS_RECORDED or mean}
        return {
            "step": counters.step,
            "epoch": round(state.plan.epoch_before(counters.step), 4),
            "images": state.plan.images_before(counters.step),
            "size": state.plan.phase_of(counters.step - 1).size[0],
            "lr": state.pipeline.rate(counters.step - 1),
            "loss": weighted(state.recipe.loss, means),
            **used,
            "images_per_s": round(counters.window_images / max(1e-9, counters.window_seconds), 2),
            "seconds": round(counters.seconds, 1),
        }


def save_weights(
    path: Path,
    state: TrainingState,
    spec: PreprocessSpec,
    run: RunFolder,
    scores: dict[str, float],
    classes: ClassSet,
) -> None:
    """Write the averaged weights with a card that says what they are, how they came about and what they score.

    Raises:
        InputError: they cannot be written.
    """
    started, recipe, counters = run.read(), state.recipe, state.counters
    # No paths: a card travels with its weights, and the folders of the machine that made them are nobody's business.
    facts = ("train_set", "train_images", "val_set", "val_images", "init_sha256", "created")
    model = state.averaged
    card = CheckpointCard(
        model=recipe.model.name,
        options=model.options,
        classes=classes.names,
        palette=classes.palette,
        swap_pairs=classes.swap_pairs,
        num_parameters=count_parameters(model),
        preprocess=spec,
        epoch=int(state.plan.epoch_before(counters.step)),
        step=counters.step,
        metrics=scores,
        recipe=recipe.model_dump(mode="json"),
        weights="ema" if recipe.optim.ema else "raw",
        training={
            **{name: started.get(name) for name in facts},
            "images_seen": state.plan.images_before(counters.step),
            "seconds": round(counters.seconds, 1),
        },
    )
    save_checkpoint(path, model.state_dict(), card)
