"""The loss against the paper's formulas, written down once more in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fptk.recipes.schema import LossSection
from fptk.training.losses import SegmentationLoss


def make_batch(absent: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 19, 6, 5, generator=generator) * 2
    target = torch.randint(0, 19, (3, 6, 5), generator=generator)
    if absent is not None:
        target[target == absent] = 0
    return logits, target


def one_hot(target: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(target, 19).permute(0, 3, 1, 2).double()


def dice_by_formula(logits: Tensor, target: Tensor, dims: tuple[int, ...], present: bool = False) -> Tensor:
    p, g = logits.double().softmax(dim=1), one_hot(target)
    ratio = (2 * (p * g).sum(dims) + 1) / (p.sum(dims) + g.sum(dims) + 1)
    counted = (g.sum(dims) > 0) if present else torch.ones_like(ratio, dtype=torch.bool)
    return 1 - ((ratio * counted).sum(-1) / counted.sum(-1)).mean()


def test_loss_equals_the_formula_over_the_batch() -> None:
    logits, target = make_batch(absent=16)
    parts = SegmentationLoss(LossSection(ce=0.7, dice=1.3))(logits, target)
    ce = -(logits.double().log_softmax(1) * one_hot(target)).sum(1).mean()
    dice = dice_by_formula(logits, target, (0, 2, 3))
    torch.testing.assert_close(parts.ce.double(), ce, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.dice.double(), dice, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.total.double(), 0.7 * ce + 1.3 * dice, rtol=1e-6, atol=0)


def test_dice_per_image_is_the_mean_of_the_images_dice() -> None:
    logits, target = make_batch()
    parts = SegmentationLoss(LossSection(dice_over="image"))(logits, target)
    torch.testing.assert_close(parts.dice.double(), dice_by_formula(logits, target, (2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("over", ["batch", "image"])
def test_dice_of_present_classes_leaves_absent_ones_out(over: str) -> None:
    logits, target = make_batch(absent=16)
    section = LossSection(dice_over=over, dice_classes="present")  # type: ignore[arg-type]
    dims = (0, 2, 3) if over == "batch" else (2, 3)
    expected = dice_by_formula(logits, target, dims, present=True)
    torch.testing.assert_close(SegmentationLoss(section)(logits, target).dice.double(), expected, rtol=1e-6, atol=0)


def test_class_weights_make_a_weighted_mean() -> None:
    logits, target = make_batch()
    weights = torch.linspace(0.5, 2, 19)
    expected = torch.nn.functional.cross_entropy(logits, target, weight=weights)
    torch.testing.assert_close(SegmentationLoss(LossSection(), weights)(logits, target).ce, expected)


def test_gradient_equals_that_of_the_formula() -> None:
    logits, target = make_batch(absent=16)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    SegmentationLoss(LossSection())(ours, target).total.backward()
    ce = torch.nn.functional.cross_entropy(theirs, target)
    (ce + dice_by_formula(theirs, target, (0, 2, 3))).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-8)


def test_perfect_logits_have_no_loss() -> None:
    _, target = make_batch()
    parts = SegmentationLoss(LossSection())(one_hot(target).float() * 60, target)
    assert float(parts.total) < 1e-6


def test_channels_last_logits_give_the_same_loss() -> None:
    logits, target = make_batch()
    loss = SegmentationLoss(LossSection())
    strided = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loss(strided, target).total, loss(logits, target).total)
