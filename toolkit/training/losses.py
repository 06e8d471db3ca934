"""Cross-entropy and soft Dice, computed so that N processes get the loss and gradients of one.

With pixels i, classes c, one-hot truth g and softmax p (the paper's equations 21-23)::

    L_ce   = - sum_i w_{t(i)} log p_{i,t(i)} / sum_i w_{t(i)}            t(i) = true class of pixel i
    L_dice = 1 - mean_c (2 sum_i p_ic g_ic + e) / (sum_i p_ic + sum_i g_ic + e)
    L      = ce L_ce + dice L_dice

with e = 1. Dice is not linear in its sums: averaging the Dice losses of two half batches is not the Dice loss of the
batch. So each sum is taken over all processes first (:func:`global_sum`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fptk.recipes.schema import LossSection

SMOOTHING = 1.0
"""e in the formula: keeps the ratio defined, and pushes the probability of absent classes towards 0."""


class LossParts(NamedTuple):
    """Loss of one batch; each a float32 scalar tensor."""

    total: Tensor
    """Weighted sum, with gradient."""
    ce: Tensor
    """Cross-entropy alone, detached, over all processes."""
    dice: Tensor
    """Dice loss alone, detached, over all processes."""


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


class SegmentationLoss(nn.Module):
    """The recipe's loss.

    Args:
        section: weights and variants.
        class_weights: float (19,) for the cross-entropy; None for ones.
    """

    class_weights: Tensor | None

    def __init__(self, section: LossSection, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.section = section
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, target: Tensor) -> LossParts:
        """Loss of one batch (of this process's part of it).

        Args:
            logits: float (B, C, H, W), unbounded.
            target: int64 (B, H, W), values 0 to C - 1.
        """
        log_p = torch.log_softmax(logits.float(), dim=1)
        ce = self.cross_entropy(log_p, target)
        dice = self.dice(log_p, target)
        return LossParts(self.section.ce * ce + self.section.dice * dice, ce.detach(), dice.detach())

    def cross_entropy(self, log_p: Tensor, target: Tensor) -> Tensor:
        """L_ce of log-probabilities (B, C, H, W)."""
        weights = self.class_weights
        summed = nn.functional.nll_loss(log_p, target, weight=weights, reduction="sum")
        pixels = target.new_tensor(target.numel(), dtype=log_p.dtype) if weights is None else weights[target].sum()
        return global_sum(summed) / global_sum(pixels)

    def dice(self, log_p: Tensor, target: Tensor) -> Tensor:
        """L_dice of log-probabilities (B, C, H, W)."""
        B, C = log_p.shape[:2]
        p = log_p.exp().flatten(2)
        labels = target.flatten(1)
        true_p = p.gather(1, labels.unsqueeze(1)).squeeze(1)
        zeros = p.new_zeros(B, C)
        overlap = zeros.scatter_add(1, labels, true_p)
        truth = zeros.scatter_add(1, labels, torch.ones_like(true_p))
        predicted = p.sum(dim=2)
        if self.section.dice_over == "batch":
            overlap, truth, predicted = (
                global_sum(each.sum(dim=0, keepdim=True)) for each in (overlap, truth, predicted)
            )
        ratio = (2 * overlap + SMOOTHING) / (predicted + truth + SMOOTHING)
        counted = truth > 0 if self.section.dice_classes == "present" else torch.ones_like(truth, dtype=torch.bool)
        loss = 1 - (ratio * counted).sum(dim=1) / counted.sum(dim=1)
        if self.section.dice_over == "image":
            images = loss.new_tensor(float(B))
            return global_sum(loss.sum()) / global_sum(images)
        return loss.squeeze(0)
