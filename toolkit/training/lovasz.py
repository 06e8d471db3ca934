"""Lovász-softmax: a convex surrogate of the IoU (Berman et al., The Lovász-Softmax loss, CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from fptk.core.classes import IGNORE


def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Loss of each image, averaged over the classes present in its truth.

    For a class c with errors ``m_i = |g_ic - p_ic|`` sorted in falling order, the loss is
    ``sum_i m_i (J_i - J_(i-1))``, J_i = the Jaccard loss 1 - IoU if exactly the i worst pixels were wrong (algorithm 1
    of the paper). It sorts every image's pixels once per class: expect it to take longer than a small network's step
    on a CPU.

    Args:
        logits: float (B, C, H, W).
        target: int64 (B, H, W), values 0 to C - 1, or :data:`fptk.core.classes.IGNORE` for pixels that are left out.

    Returns:
        float32 (B,) (float64 for float64 logits), each 0 to 1, with gradient.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.stack(
        [_of_image(each.flatten(1).to(dtype), true.flatten()) for each, true in zip(logits, target, strict=True)]
    )


def _of_image(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of one image: logits (C, N), labels (N,)."""
    present = torch.unique(labels)
    if present[-1] == IGNORE:
        counted = labels != IGNORE
        logits, labels, present = logits[:, counted], labels[counted], present[:-1]
    if not len(present):
        return logits.sum()  # of no pixel: 0
    p = logits.softmax(dim=0)[present]
    truth = (labels == present.unsqueeze(1)).to(p.dtype)
    errors, order = (truth - p).abs().sort(dim=1, descending=True)
    loss: Tensor = (errors * _jaccard_steps(truth.gather(1, order))).sum(dim=1).mean()
    return loss


def _jaccard_steps(truth: Tensor) -> Tensor:
    """Growth of the Jaccard loss with each further wrong pixel, (K, N) of sorted 0/1 truth (K, N)."""
    total = truth.sum(dim=1, keepdim=True)
    intersection = total - truth.cumsum(dim=1)
    union = total + (1 - truth).cumsum(dim=1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
