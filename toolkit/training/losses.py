"""The recipe's loss: a weighted sum of terms, computed so that N processes get the loss and gradients of one.

With pixels i, classes c, one-hot truth g, softmax p, and t the true class of pixel i::

    L_ce     = - sum_i w_i log p_it / sum_i w_i          w_i = w_t (1 + boundary [i is near a border])
    L_dice   = 1 - mean_c (2 sum_i p_ic g_ic + e) / (sum_i p_ic + sum_i g_ic + e)
    L_focal  = - alpha mean_i (1 - p_it)^gamma log p_it
    L_lovasz = mean over images of fptk.training.lovasz
    L        = ce L_ce + dice L_dice + focal L_focal + lovasz L_lovasz

with e = 1. Cross-entropy and Dice are equations 21-23 of the MicroSegFormer paper; the focal loss is Lin et al.'s
(2017) over the softmax; the class weights w_c are in :mod:`fptk.training.class_balance`. Dice is not linear in its
sums: averaging the Dice losses of two half batches is not the Dice loss of the batch. So each sum is taken over all
processes first (:func:`global_sum`).

Ignored pixels are in none of the sums, and their gradient is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fptk.core.classes import IGNORE
from fptk.recipes.schema import LossSection
from fptk.training.lovasz import lovasz_softmax
from fptk.training.softmax_sums import softmax_sums

SMOOTHING = 1.0
"""e in the formula: keeps the ratio defined, and pushes the probability of absent classes towards 0."""

TERMS = ("ce", "dice", "focal", "lovasz")
"""Terms of the loss, by the recipe's keys of their weights."""


def weighted(section: LossSection, terms: Sequence[float]) -> float:
    """The loss of its terms, which stand in the order of :data:`TERMS`."""
    return math.fsum(getattr(section, name) * value for name, value in zip(TERMS, terms, strict=True))


class LossParts(NamedTuple):
    """Loss of one batch over all processes; each a scalar tensor."""

    total: Tensor
    """Weighted sum, with gradient."""
    ce: Tensor
    """Cross-entropy alone, detached."""
    dice: Tensor
    """Dice loss alone, detached."""
    focal: Tensor
    """Focal loss alone, detached; 0 where its weight is 0."""
    lovasz: Tensor
    """Lovász-softmax alone, detached; 0 where its weight is 0."""

    @property
    def terms(self) -> Tensor:
        """The four terms in the order of :data:`TERMS`, (4,)."""
        return torch.stack(self[1:])


class LossSums(NamedTuple):
    """All that a loss needs to know of a batch: those of two batches make those of both (:func:`joined`)."""

    nll: Tensor
    """Weighted negative log-likelihood, scalar."""
    weight: Tensor
    """Sum of its weights, scalar."""
    focal: Tensor
    """Sum of the focal losses, without alpha, scalar."""
    lovasz: Tensor
    """Lovász-softmax of each image, (B,)."""
    overlap: Tensor
    """Sum of p g over each image's pixels, (B, C)."""
    predicted: Tensor
    """Sum of p, (B, C)."""
    truth: Tensor
    """Sum of g, (B, C)."""


def joined(sums: Sequence[LossSums]) -> LossSums:
    """Sums of several batches together."""
    columns = zip(*sums, strict=True)
    return LossSums(*(torch.cat(each) if each[0].ndim else torch.stack(each).sum() for each in columns))


def world_size() -> int:
    """Number of training processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(local: Tensor) -> Tensor:
    """Sum of ``local`` over all processes, any shape.

    Its gradient with respect to ``local`` is the number of processes, not 1: data parallelism averages the
    processes' gradients, and this undoes the division.
    """
    world = world_size()
    if world == 1:
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    scaled = local * world
    return scaled + (total - scaled.detach())


def near_border(target: Tensor, width: int) -> Tensor:
    """Which pixels have another label within ``width`` pixels (a square window).

    Args:
        target: int64 (B, H, W); ignored pixels make no border.
        width: at least 1.

    Returns:
        bool (B, H, W).
    """
    labels = target.to(torch.uint8)
    # Ignored, the highest label there is, is never the lowest of several, and as 0 never the highest.
    counted = torch.where(labels == IGNORE, 0, labels)
    highest, lowest = (
        _spread(_spread(each, width, 1, pick), width, 2, pick)
        for each, pick in ((counted, torch.maximum), (labels, torch.minimum))
    )
    return highest > lowest


def _spread(labels: Tensor, width: int, dim: int, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Each pixel's ``pick`` among those within ``width`` along ``dim``; far faster than a pooling on a CPU."""
    result, length = labels.clone(), labels.shape[dim]
    for step in range(1, min(width, length - 1) + 1):
        for near, far in ((0, step), (step, 0)):
            place = result.narrow(dim, near, length - step)
            place.copy_(pick(place, labels.narrow(dim, far, length - step)))
    return result


class SegmentationLoss(nn.Module):
    """The recipe's loss.

    Args:
        section: weights and variants.
        class_weights: float (C,) for the cross-entropy; None for ones.
        ignores: whether targets may hold ignored pixels; telling them apart takes a little time.
    """

    class_weights: Tensor | None

    def __init__(self, section: LossSection, class_weights: Tensor | None = None, *, ignores: bool = False) -> None:
        super().__init__()
        self.section, self.ignores = section, ignores
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, target: Tensor, partner: Tensor | None = None, share: float = 1.0) -> LossParts:
        """Loss of one batch (of this process's part of it).

        Args:
            logits: float (B, C, H, W), unbounded.
            target: int64 (B, H, W), values 0 to C - 1, or :data:`fptk.core.classes.IGNORE`.
            partner: labels of the images that MixUp mixed in, as ``target``; None for unmixed images.
            share: weight of ``target`` against ``partner``, 0-1: the loss is ``share L(target) + (1 - share)
                L(partner)`` (Zhang et al., mixup, 2018).
        """
        parts = self.of_sums(self.sums(logits, target), global_sum)
        if partner is None:
            return parts
        other = self.of_sums(self.sums(logits, partner), global_sum)
        return LossParts(*(share * one + (1 - share) * two for one, two in zip(parts, other, strict=True)))

    def sums(self, logits: Tensor, target: Tensor) -> LossSums:
        """This batch's sums; arguments as of :meth:`forward`."""
        section = self.section
        kind = torch.promote_types(logits.dtype, torch.float32)
        counted = (target != IGNORE).flatten(1).to(kind) if self.ignores else None
        labels = target if counted is None else torch.where(target == IGNORE, 0, target)
        weights = self._pixel_weights(target, labels, counted)
        pixels = softmax_sums(logits, labels, weights, section.focal_gamma if section.focal else None, counted)
        truth = torch.zeros_like(pixels.overlap)
        ones = torch.ones_like(labels.flatten(1), dtype=truth.dtype) if counted is None else counted.to(truth.dtype)
        truth.scatter_add_(1, labels.flatten(1), ones)
        return LossSums(
            nll=pixels.nll,
            weight=truth.sum() if weights is None else weights.sum(),
            focal=pixels.focal,
            lovasz=lovasz_softmax(logits, target) if section.lovasz else truth.new_zeros(len(truth)),
            overlap=pixels.overlap,
            predicted=pixels.predicted,
            truth=truth,
        )

    def of_sums(self, sums: LossSums, across: Callable[[Tensor], Tensor] = lambda local: local) -> LossParts:
        """The loss of sums; ``across`` adds what other processes have."""
        section = self.section
        terms = {
            "ce": across(sums.nll) / self._positive(across(sums.weight)),
            "dice": self._dice(sums, across),
            "focal": sums.focal,
            "lovasz": sums.lovasz.sum(),
        }
        if section.focal:
            terms["focal"] = section.focal_alpha * across(sums.focal) / self._positive(across(sums.truth.sum()))
        if section.lovasz:
            terms["lovasz"] = _mean(sums.lovasz, across)
        weighted = [getattr(section, name) * terms[name] for name in TERMS if getattr(section, name)]
        total = torch.stack(weighted).sum()
        return LossParts(total, *(terms[name].detach() for name in TERMS))

    def _positive(self, total: Tensor) -> Tensor:
        """A sum that is divided by: over ignored pixels alone it is 0, and so is what it divides."""
        return total.clamp_min(torch.finfo(total.dtype).tiny) if self.ignores else total

    def _pixel_weights(self, target: Tensor, labels: Tensor, counted: Tensor | None) -> Tensor | None:
        """Weight of each pixel in the cross-entropy, (B, H W); None for ones.

        Args:
            target: int64 (B, H, W).
            labels: the same with 0 where the pixel is ignored.
            counted: (B, H W), 0 where the pixel is ignored and else 1; None where none is.
        """
        weights = None if self.class_weights is None else self.class_weights[labels.flatten(1)]
        if self.section.boundary:
            factor = 1 + self.section.boundary * near_border(target, self.section.boundary_width).flatten(1)
            weights = factor if weights is None else weights * factor
        return weights if counted is None else counted if weights is None else weights * counted

    def _dice(self, sums: LossSums, across: Callable[[Tensor], Tensor]) -> Tensor:
        """L_dice over the batch or over each image."""
        columns = (sums.overlap, sums.predicted, sums.truth)
        if self.section.dice_over == "batch":
            columns = tuple(across(each.sum(dim=0, keepdim=True)) for each in columns)  # type: ignore[assignment]
        overlap, predicted, truth = columns
        ratio = (2 * overlap + SMOOTHING) / (predicted + truth + SMOOTHING)
        counted = truth > 0 if self.section.dice_classes == "present" else torch.ones_like(truth, dtype=torch.bool)
        loss = 1 - (ratio * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)
        return _mean(loss, across) if self.section.dice_over == "image" else loss.squeeze(0)


def _mean(of_images: Tensor, across: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the images (B,) of all processes."""
    return across(of_images.sum()) / across(of_images.new_full((), float(len(of_images))))
