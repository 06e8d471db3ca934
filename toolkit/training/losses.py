"""Cross-entropy and soft Dice, computed so that N processes get the loss and gradients of one.

With pixels i, classes c, one-hot truth g and softmax p (the paper's equations 21-23)::

    L_ce   = - sum_i w_{t(i)} log p_{i,t(i)} / sum_i w_{t(i)}            t(i) = true class of pixel i
    L_dice = 1 - mean_c (2 sum_i p_ic g_ic + e) / (sum_i p_ic + sum_i g_ic + e)
    L      = ce L_ce + dice L_dice

with e = 1. Dice is not linear in its sums: averaging the Dice losses of two half batches is not the Dice loss of the
batch. So each sum is taken over all processes first (:func:`global_sum`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class _SoftmaxSums(torch.autograd.Function):
    """The three sums that both losses are made of, with an analytic gradient.

    Written out by operations, each of them walks over all logits in memory, several times forward and back; here one
    image at a time goes through the cache of a CPU (a GPU takes the whole batch at once).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over pixels.

        Args:
            ctx: autograd's.
            logits: float (B, C, H, W), contiguous or channels-last.
            target: int64 (B, H, W), values 0 to C - 1.
            weights: float32 (C,), weight of each true class in the first sum; None for ones.

        Returns:
            ``- sum_i w_t log p_it`` over all images, scalar; ``sum_i p_ic g_ic`` per image, (B, C); ``sum_i p_ic`` per
            image, (B, C). All float32.
        """
        B, C = logits.shape[:2]
        by_pixel, classes = _class_dimension(logits)
        labels = target.flatten(1)
        p = torch.empty(by_pixel.shape, dtype=torch.float32, device=logits.device)
        true_p = torch.empty(labels.shape, dtype=torch.float32, device=logits.device)
        predicted = torch.empty(B, C, dtype=torch.float32, device=logits.device)
        for part in _parts(logits):
            torch.softmax(by_pixel[part].float(), dim=classes, out=p[part])
            true_p[part] = p[part].gather(classes, labels[part].unsqueeze(classes)).squeeze(classes)
            predicted[part] = p[part].sum(dim=3 - classes)
        tiny = torch.finfo(torch.float32).tiny  # of a probability that underflowed; its gradient p - g is exact
        log_p = true_p.clamp_min(tiny).log_()
        nll = -(log_p if weights is None else log_p.mul_(weights[labels])).sum()
        overlap = torch.zeros_like(predicted).scatter_add_(1, labels, true_p)
        ctx.save_for_backward(p, true_p, labels, weights)
        ctx.layout = (logits.shape, logits.dtype, classes)
        return nll, overlap, predicted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the logits.

        With a = d/d predicted, b = d/d overlap, w = weight * d/d nll, all of the pixel's true class t where an index is
        left out: ``dz_ic = p_ic (a_c + w - sum_k p_ik a_k - p_it b) + g_ic (p_it b - w)``.
        """
        p, true_p, labels, weights = ctx.saved_tensors
        shape, dtype, classes = ctx.layout
        nll, overlap, predicted = gradients
        out = torch.empty(p.shape, dtype=dtype, device=p.device)
        for part in _parts(p):
            at = labels[part]
            w = nll if weights is None else nll * weights[at]
            b = overlap[part].gather(1, at) * true_p[part]
            a = predicted[part].unsqueeze(3 - classes)
            mixed = torch.matmul(*((p[part], a.mT) if classes == 2 else (a.mT, p[part])))
            dz = (a + (w - b).unsqueeze(classes) - mixed).mul_(p[part])
            out[part] = dz.scatter_add_(classes, at.unsqueeze(classes), (b - w).unsqueeze(classes))
        B, C, H, W = shape
        return out.view(B, C, H, W) if classes == 1 else out.view(B, H, W, C).permute(0, 3, 1, 2), None, None


def _class_dimension(logits: Tensor) -> tuple[Tensor, int]:
    """View (B, C, H, W) as (B, C, H W) or, if channels-last, as (B, H W, C), and the dimension of the classes."""
    if logits.is_contiguous(memory_format=torch.channels_last):
        return logits.permute(0, 2, 3, 1).flatten(1, 2), 2
    return logits.contiguous().flatten(2), 1


def _parts(batch: Tensor) -> list[slice]:
    """Images that are worked on together."""
    step = 1 if batch.device.type == "cpu" else len(batch)
    return [slice(start, start + step) for start in range(0, len(batch), step)]


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
        nll, overlap, predicted = _SoftmaxSums.apply(logits, target, self.class_weights)  # type: ignore[no-untyped-call]
        labels = target.flatten(1)
        truth = torch.zeros_like(overlap).scatter_add_(1, labels, torch.ones_like(labels, dtype=overlap.dtype))
        ce = global_sum(nll) / global_sum((truth if self.class_weights is None else truth * self.class_weights).sum())
        dice = self.dice(overlap, predicted, truth)
        return LossParts(self.section.ce * ce + self.section.dice * dice, ce.detach(), dice.detach())

    def dice(self, overlap: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
        """L_dice of the sums of p g, p and g over each image's pixels, each float (B, C)."""
        if self.section.dice_over == "batch":
            overlap, predicted, truth = (
                global_sum(each.sum(dim=0, keepdim=True)) for each in (overlap, predicted, truth)
            )
        ratio = (2 * overlap + SMOOTHING) / (predicted + truth + SMOOTHING)
        counted = truth > 0 if self.section.dice_classes == "present" else torch.ones_like(truth, dtype=torch.bool)
        loss = 1 - (ratio * counted).sum(dim=1) / counted.sum(dim=1)
        if self.section.dice_over == "image":
            return global_sum(loss.sum()) / global_sum(loss.new_tensor(float(len(loss))))
        return loss.squeeze(0)
