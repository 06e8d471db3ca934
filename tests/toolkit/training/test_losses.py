"""The loss against the paper's formulas, written down once more in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fptk.core.errors import InputError
from fptk.recipes.schema import LossSection
from fptk.training.class_balance import inverse_log_frequency
from fptk.training.losses import SegmentationLoss, joined, near_border
from fptk.training.lovasz import lovasz_softmax
from fptk.training.softmax_sums import softmax_sums


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


def focal_by_formula(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    p = logits.double().softmax(1).gather(1, target.unsqueeze(1))
    return -((1 - p) ** gamma * p.log()).mean()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_its_gradient_equal_the_formula(gamma: float) -> None:
    logits, target = make_batch()
    section = LossSection(ce=1, dice=1, focal=0.5, focal_gamma=gamma, focal_alpha=0.25)
    ours, theirs = logits.double().requires_grad_(), logits.double().requires_grad_()
    parts = SegmentationLoss(section)(ours, target)
    focal = 0.25 * focal_by_formula(theirs, target, gamma)
    total = torch.nn.functional.cross_entropy(theirs, target) + dice_by_formula(theirs, target, (0, 2, 3)) + 0.5 * focal
    torch.testing.assert_close(parts.focal, focal.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.total, total, rtol=1e-12, atol=0)
    parts.total.backward()
    total.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("right", [60.0, 2000.0])
def test_focal_loss_of_certain_pixels_has_a_finite_gradient(right: float) -> None:
    _, target = make_batch()
    for sign in (1, -1):
        logits = (sign * one_hot(target).float() * right).requires_grad_()
        SegmentationLoss(LossSection(focal=1, focal_gamma=0.5))(logits, target).total.backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_analytic_gradient_passes_gradcheck(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    target = torch.randint(0, 4, (2, 3, 2), generator=generator)
    weights = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda each: tuple(softmax_sums(each, target, weights, 1.5)), (logits.requires_grad_(),)
    )


def test_boundary_weights_count_pixels_near_a_border_more() -> None:
    logits, target = make_batch()
    target[:] = 1
    target[:, :, 3:] = 2
    section = LossSection(boundary=3.0, boundary_width=1)
    weights = torch.ones(target.shape, dtype=torch.float64)
    weights[:, :, 2:4] = 4.0
    nll = -logits.double().log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
    parts = SegmentationLoss(section)(logits.double(), target)
    torch.testing.assert_close(parts.ce, (weights * nll).sum() / weights.sum(), rtol=1e-12, atol=0)


def test_border_lies_within_the_width_of_another_label() -> None:
    target = torch.zeros(1, 9, 9, dtype=torch.int64)
    target[0, 4, 4] = 18
    for width in (1, 2):
        expected = torch.zeros(9, 9, dtype=torch.bool)
        expected[4 - width : 5 + width, 4 - width : 5 + width] = True
        assert torch.equal(near_border(target, width)[0], expected)
    assert not near_border(torch.ones_like(target), 2).any()


def lovasz_by_definition(logits: Tensor, target: Tensor) -> Tensor:
    """One image, class by class, with the Jaccard loss of each set of worst pixels counted anew."""
    p, losses = logits.double().softmax(0).flatten(1), []
    for label in target.unique():
        truth = (target == label).flatten()
        errors = (truth.double() - p[label]).abs()
        order = errors.argsort(descending=True)
        loss, before = errors.new_zeros(()), 0.0
        for count in range(1, len(order) + 1):
            wrong = torch.zeros_like(truth)
            wrong[order[:count]] = True
            predicted = truth ^ wrong
            now = 1 - float((truth & predicted).sum() / (truth | predicted).sum())
            loss = loss + errors[order[count - 1]] * (now - before)
            before = now
        losses.append(loss)
    return torch.stack(losses).mean()


def test_lovasz_softmax_equals_its_definition() -> None:
    logits, target = make_batch()
    ours, theirs = logits.double().requires_grad_(), logits.double().requires_grad_()
    expected = torch.stack([lovasz_by_definition(*each) for each in zip(theirs, target, strict=True)])
    got = lovasz_softmax(ours, target)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    parts = SegmentationLoss(LossSection(ce=0, dice=0, lovasz=2))(ours, target)
    torch.testing.assert_close(parts.total, 2 * expected.mean(), rtol=1e-6, atol=0)
    parts.total.backward()
    (2 * expected.mean()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)


def test_perfect_logits_have_no_lovasz_loss() -> None:
    _, target = make_batch()
    assert float(lovasz_softmax(one_hot(target) * 60, target).max()) < 1e-12


def test_sums_of_two_batches_make_the_loss_of_both() -> None:
    logits, target = make_batch()
    loss = SegmentationLoss(LossSection(focal=1, lovasz=1, boundary=2), torch.linspace(0.5, 2, 19))
    parts = [loss.sums(logits[part], target[part]) for part in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(loss.of_sums(joined(parts)), loss(logits, target))


def test_mixed_labels_share_the_loss() -> None:
    logits, target = make_batch()
    loss, other = SegmentationLoss(LossSection()), target.roll(1, 0)
    expected = 0.3 * loss(logits, target).total + 0.7 * loss(logits, other).total
    torch.testing.assert_close(loss(logits, target, other, 0.3).total, expected)


def shares(*values: float) -> np.ndarray:
    pixels = np.zeros((1, 19), np.int64)
    pixels[0, : len(values)] = np.round(np.array(values) * 1e6)
    return pixels


def test_log_frequency_weights_equal_the_formula_and_sum_to_one() -> None:
    eps, f = 1e-6, np.zeros(19)
    f[:4] = 0.5, 0.3, 0.1999, 0.0001
    expected = (1 / np.log(f + eps)) / sum(1 / np.log(f + eps))
    weights = inverse_log_frequency(shares(*f[:4]), eps)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(("eps", "rare_weighs_more"), [(1e-6, False), (1.02, True)])
def test_log_frequency_weights_favour_rare_classes_only_with_an_eps_above_one(
    eps: float, rare_weighs_more: bool
) -> None:
    weights = inverse_log_frequency(shares(0.5, 0.3, 0.1999, 0.0001), eps)
    assert weights.min() > 0
    assert (weights[3] > weights[0]) == rare_weighs_more


@pytest.mark.parametrize("eps", [0.6, 1.0])
def test_log_frequency_of_both_signs_is_refused(eps: float) -> None:
    with pytest.raises(InputError, match=r"loss\.class_weight_eps=.*choose less than 0\.5, or more than 1"):
        inverse_log_frequency(shares(0.5, 0.3, 0.2), eps)
