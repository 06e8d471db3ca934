"""Validation during a training, and the checkpoints that it leaves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.evaluation import predictions
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import PreprocessSpec
from fptk.models import CheckpointCard, TorchSession, count_parameters, save_checkpoint
from fptk.models.network import FaceParsingNetwork
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.training.losses import LossSums, SegmentationLoss, joined
from fptk.training.progress import Listener
from fptk.training.resume import Counters
from fptk.training.schedule import Plan

SCORES = ("f1", "f1_challenge", "miou", "f1_nobg", "pixel_accuracy")
"""Validation scores that are recorded."""


def score(
    model: FaceParsingNetwork,
    spec: PreprocessSpec,
    dataset: FaceParsingDataset,
    device: torch.device,
    listener: Listener,
    loss: SegmentationLoss,
) -> tuple[dict[str, float], float]:
    """Scores of ``model`` on ``dataset`` at the size of ``spec``, through the evaluation of every engine, and its loss.

    The loss is that of the whole data set as one batch, of logits and labels at the size of ``spec``.
    """
    total = len(dataset)
    meter = _LossMeter(model, spec, loss)
    with TorchSession(meter, spec, device=str(device)) as session:
        matrix = ConfusionMatrix()
        for done, (sample, labels) in enumerate(predictions(session, dataset), start=1):
            matrix.add(sample.mask, labels)
            meter.add(sample)
            listener.step(0, f"validating {done}/{total}")
        scores = matrix.scores()
    return {name: getattr(scores, name) for name in SCORES}, meter.loss_of_all()


class _LossMeter(nn.Module):
    """The network, with its last logits at hand: a session gives labels only, and running it twice costs double."""

    def __init__(self, model: nn.Module, spec: PreprocessSpec, loss: SegmentationLoss) -> None:
        super().__init__()
        self.model = model
        self._spec = spec
        self._loss = (loss,)  # in a tuple it is no submodule, and keeps its own mode and device
        self._sums: list[LossSums] = []
        self._logits: Tensor | None = None
        self.train(model.training)  # a session puts back the mode that it found

    def forward(self, x: Tensor) -> Tensor:
        """Logits (1, 19, H, W) of one image."""
        self._logits = self.model(x)
        return self._logits

    @torch.inference_mode()
    def add(self, sample: Sample) -> None:
        """Take in the last logits as those of ``sample``."""
        assert self._logits is not None
        target = torch.from_numpy(self._spec.apply_mask(sample.mask))[None].to(self._logits.device).long()
        self._sums.append(self._loss[0].sums(self._logits.float(), target))

    @torch.inference_mode()
    def loss_of_all(self) -> float:
        """The loss of all samples as one batch."""
        return float(self._loss[0].of_sums(joined(self._sums)).total)


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
    # No paths: a card travels with its weights, and the folders of the machine that made them are nobody's business.
    facts = ("train_set", "train_images", "val_set", "val_images", "init_sha256", "created")
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
