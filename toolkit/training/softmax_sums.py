"""The sums over pixels that cross-entropy, Dice and focal loss are made of, in one pass with an analytic gradient.

Written out by operations, each of them walks over all logits in memory, several times forward and back; here one
image at a time goes through the cache of a CPU (a GPU takes the whole batch at once).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class PixelSums(NamedTuple):
    """Sums over the pixels i of a batch; float32 (float64 for float64 logits), with gradient."""

    nll: Tensor
    """``- sum_i w_i log p_it`` over all images, scalar; t is the true class of pixel i."""
    focal: Tensor
    """``- sum_i (1 - p_it)^gamma log p_it`` over all images, scalar; 0 where no gamma was given."""
    overlap: Tensor
    """``sum_i p_ic g_ic`` per image, (B, C)."""
    predicted: Tensor
    """``sum_i p_ic`` per image, (B, C)."""


def softmax_sums(
    logits: Tensor,
    target: Tensor,
    pixel_weights: Tensor | None = None,
    gamma: float | None = None,
    counted: Tensor | None = None,
) -> PixelSums:
    """Sums over pixels.

    Args:
        logits: float (B, C, H, W), contiguous or channels-last.
        target: int64 (B, H, W), values 0 to C - 1.
        pixel_weights: float (B, H W), w_i of the first sum; None for ones.
        gamma: exponent of the second sum, at least 0; None leaves it out.
        counted: float (B, H W), 0 for pixels that are in no sum and 1 for the others; None where all are. The first
            sum leaves a pixel out by its weight, which must then be 0.
    """
    return PixelSums(*_SoftmaxSums.apply(logits, target, pixel_weights, gamma, counted))  # type: ignore[no-untyped-call]


class _SoftmaxSums(torch.autograd.Function):
    """:func:`softmax_sums` for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        pixel_weights: Tensor | None,
        gamma: float | None,
        counted: Tensor | None,
    ) -> tuple[Tensor, ...]:
        B, C = logits.shape[:2]
        by_pixel, classes = _class_dimension(logits)
        labels = target.flatten(1)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        p = torch.empty(by_pixel.shape, dtype=dtype, device=logits.device)
        true_p = torch.empty(labels.shape, dtype=dtype, device=logits.device)
        predicted = torch.empty(B, C, dtype=dtype, device=logits.device)
        for part in _parts(logits):
            torch.softmax(by_pixel[part].to(dtype), dim=classes, out=p[part])
            true_p[part] = p[part].gather(classes, labels[part].unsqueeze(classes)).squeeze(classes)
            predicted[part] = _summed(p[part], classes, None if counted is None else counted[part])
        log_p = _log(true_p)
        focal = true_p.new_zeros(()) if gamma is None else -_left(_focal(true_p, log_p, gamma), counted).sum()
        nll = -(log_p if pixel_weights is None else log_p.mul_(pixel_weights)).sum()
        overlap = torch.zeros_like(predicted).scatter_add_(1, labels, _left(true_p, counted))
        ctx.save_for_backward(p, true_p, labels, pixel_weights, counted)
        ctx.layout = (logits.shape, logits.dtype, classes)
        ctx.gamma = gamma
        return nll, focal, overlap, predicted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Gradient of the logits.

        With a = d/d predicted, b = d/d overlap, w = - p_it d/d p_it of the two scalar sums, all of the pixel's true
        class t where an index is left out: ``dz_ic = p_ic (a_c + w - sum_k p_ik a_k - p_it b) + g_ic (p_it b - w)``.
        """
        p, true_p, labels, pixel_weights, counted = ctx.saved_tensors
        shape, dtype, classes = ctx.layout
        nll, focal, overlap, predicted = gradients
        out = torch.empty(p.shape, dtype=dtype, device=p.device)
        for part in _parts(p):
            at = labels[part]
            w = nll if pixel_weights is None else nll * pixel_weights[part]
            if ctx.gamma is not None:
                w = w + focal * _focal_slope(true_p[part], ctx.gamma)
            b = overlap[part].gather(1, at) * true_p[part]
            a = predicted[part].unsqueeze(3 - classes)
            mixed = torch.matmul(*((p[part], a.mT) if classes == 2 else (a.mT, p[part])))
            dz = (a + (w - b).unsqueeze(classes) - mixed).mul_(p[part])
            dz.scatter_add_(classes, at.unsqueeze(classes), (b - w).unsqueeze(classes))
            out[part] = dz if counted is None else dz.mul_(counted[part].unsqueeze(classes))
        B, C, H, W = shape
        logits = out.view(B, C, H, W) if classes == 1 else out.view(B, H, W, C).permute(0, 3, 1, 2)
        return logits, None, None, None, None


def _focal(p: Tensor, log_p: Tensor, gamma: float) -> Tensor:
    return (1 - p).clamp_min(0).pow_(gamma) * log_p


def _summed(p: Tensor, classes: int, counted: Tensor | None) -> Tensor:
    """Sum over the pixels that count, (B, C)."""
    if counted is None:
        return p.sum(dim=3 - classes)
    return torch.matmul(p if classes == 1 else p.mT, counted.unsqueeze(2)).squeeze(2)


def _left(values: Tensor, counted: Tensor | None) -> Tensor:
    """``values`` with 0 for pixels that do not count."""
    return values if counted is None else values * counted


def _log(p: Tensor) -> Tensor:
    """log p of probabilities, where one that underflowed to 0 counts as the smallest number: p - g stays exact."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log_()


def _focal_slope(p: Tensor, gamma: float) -> Tensor:
    """- p d/dp of ``- (1 - p)^gamma log p``: ``(1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p``."""
    rest = (1 - p).clamp_min(torch.finfo(p.dtype).tiny)  # 0 to a negative power times log 1 = 0 would be no number
    return rest.pow(gamma) - gamma * p * rest.pow(gamma - 1) * _log(p)


def _class_dimension(logits: Tensor) -> tuple[Tensor, int]:
    """View (B, C, H, W) as (B, C, H W) or, if channels-last, as (B, H W, C), and the dimension of the classes."""
    if logits.is_contiguous(memory_format=torch.channels_last):
        return logits.permute(0, 2, 3, 1).flatten(1, 2), 2
    return logits.contiguous().flatten(2), 1


def _parts(batch: Tensor) -> list[slice]:
    """Images that are worked on together."""
    step = 1 if batch.device.type == "cpu" else len(batch)
    return [slice(start, start + step) for start in range(0, len(batch), step)]
