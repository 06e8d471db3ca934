"""Ignored pixels count nowhere: in no term of the loss, in no score, in no border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fptk.core.classes import IGNORE, ClassSet
from fptk.core.confusions import BorderCount
from fptk.core.metrics import ConfusionMatrix
from fptk.recipes.schema import LossSection
from fptk.training.losses import SegmentationLoss, near_border

CLASSES = ClassSet(names=("background", "skin", "hair"))
SECTIONS = {
    "ce": LossSection(ce=1, dice=0),
    "dice": LossSection(ce=0, dice=1),
    "dice of each image": LossSection(ce=0, dice=1, dice_over="image", dice_classes="present"),
    "focal": LossSection(ce=0, dice=0, focal=1),
    "lovasz": LossSection(ce=0, dice=0, lovasz=1),
    "all": LossSection(ce=0.5, dice=1, focal=0.3, lovasz=0.7),
}


def batch(seed: int = 0, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 8, 8) with gradient, and labels of which a share is ignored."""
    torch.manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, dtype=torch.float64).requires_grad_()
    target = torch.randint(0, 3, (2, 8, 8))
    return logits, torch.where(torch.rand(2, 8, 8) < share, IGNORE, target)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "weights", [None, torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)], ids=["plain", "weighted"]
)
@pytest.mark.parametrize("name", SECTIONS)
def test_the_loss_is_that_of_the_other_pixels_alone(
    name: str, weights: Tensor | None, layout: torch.memory_format
) -> None:
    """Each term written down from its formula, pixel by pixel, over the pixels that count."""
    section = SECTIONS[name]
    logits, target = batch()
    ours = logits.detach().to(memory_format=layout).requires_grad_()
    loss = SegmentationLoss(section, weights, ignores=True)(ours, target)
    loss.total.backward()
    expected = by_formula(logits, target, section, weights)
    expected.backward()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert ours.grad is not None
    assert logits.grad is not None
    torch.testing.assert_close(ours.grad, logits.grad, rtol=1e-7, atol=1e-12)
    outside = (target == IGNORE).unsqueeze(1).expand_as(ours)
    assert (ours.grad[outside] == 0).all()
    assert (ours.grad[~outside] != 0).any()


def by_formula(logits: Tensor, target: Tensor, section: LossSection, weights: Tensor | None) -> Tensor:
    counted = target != IGNORE
    log_p = F.log_softmax(logits, dim=1)
    total = torch.zeros((), dtype=torch.float64)
    if section.ce:
        total = total + section.ce * F.cross_entropy(logits, target, weights, ignore_index=IGNORE)
    if section.focal:
        own = log_p.gather(1, torch.where(counted, target, 0).unsqueeze(1)).squeeze(1)[counted]
        total = total - section.focal * section.focal_alpha * ((1 - own.exp()) ** section.focal_gamma * own).mean()
    if section.dice:
        p = log_p.exp() * counted.unsqueeze(1)
        g = torch.stack([target == label for label in range(3)], dim=1).double()
        over = (2, 3) if section.dice_over == "image" else (0, 2, 3)
        truth = g.sum(over)
        ratio = (2 * (p * g).sum(over) + 1) / (p.sum(over) + truth + 1)
        kept = truth > 0 if section.dice_classes == "present" else torch.ones_like(truth)
        total = total + section.dice * (1 - (ratio * kept).sum(-1) / kept.sum(-1)).mean()
    if section.lovasz:
        total = (
            total
            + section.lovasz * torch.stack([lovasz(*each) for each in zip(log_p.exp(), target, strict=True)]).mean()
        )
    return total


def lovasz(p: Tensor, target: Tensor) -> Tensor:
    """Algorithm 1 of the paper, one class after the other, over the pixels that count."""
    counted = target != IGNORE
    terms = []
    for label in target[counted].unique().tolist():
        truth = (target[counted] == label).double()
        errors, order = (truth - p[label][counted]).abs().sort(descending=True)
        truth = truth[order]
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        terms.append((errors * torch.diff(jaccard, prepend=torch.zeros(1, dtype=torch.float64))).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("name", SECTIONS)
def test_what_is_predicted_there_changes_nothing(name: str) -> None:
    logits, target = batch(1)
    loss = SegmentationLoss(SECTIONS[name], ignores=True)
    changed = torch.where((target == IGNORE).unsqueeze(1), 50 * torch.randn_like(logits), logits)
    assert loss(changed, target).total.item() == pytest.approx(loss(logits, target).total.item(), rel=1e-12)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_batch_that_is_ignored_as_a_whole_teaches_nothing(name: str) -> None:
    logits, target = batch(2, share=1.1)
    loss = SegmentationLoss(SECTIONS[name], ignores=True)(logits, target).total
    assert torch.isfinite(loss)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", SECTIONS)
def test_telling_them_apart_changes_nothing_where_there_are_none(name: str) -> None:
    logits, target = batch(3, share=0)
    plain, telling = (SegmentationLoss(SECTIONS[name], ignores=each)(logits, target).total for each in (False, True))
    assert telling.item() == pytest.approx(plain.item(), rel=1e-12)


def test_they_make_no_border() -> None:
    target = torch.full((1, 6, 9), 1)
    target[..., 3:6] = IGNORE
    assert not near_border(target, 2).any()
    target[..., 6:] = 2
    assert near_border(target, 1).sum() == 0
    assert near_border(target, 3)[0, 0].tolist() == [False] * 3 + [True] * 3 + [False] * 3
    weighted = SegmentationLoss(LossSection(ce=1, dice=0, boundary=5, boundary_width=3), ignores=True)
    plain = SegmentationLoss(LossSection(ce=1, dice=0), ignores=True)
    logits = torch.randn(1, 3, 6, 9)
    assert weighted(logits, target).total.item() == pytest.approx(plain(logits, target).total.item(), rel=1e-6)


def test_no_score_counts_them() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (40, 40)).astype(np.uint8)
    right = np.where(rng.random(truth.shape) < 0.8, truth, 0).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.4] = IGNORE
    wild = np.where(truth == IGNORE, rng.integers(0, 3, truth.shape), right).astype(np.uint8)
    counted = truth != IGNORE
    results = []
    for mask, labels in ((truth, right), (truth, wild), (truth[counted][None], right[counted][None])):
        matrix, borders = ConfusionMatrix(CLASSES), BorderCount(CLASSES)
        matrix.add(mask, labels)
        borders.add(mask, labels)
        results.append((matrix.scores(), borders.report(matrix.counts).wrong, borders.report(matrix.counts)))
    assert results[0] == results[1]
    assert results[0][:2] == results[2][:2]
    assert results[0][0].pixel_accuracy == pytest.approx((truth == right)[counted].mean())


def test_an_image_without_a_pixel_that_counts_is_in_no_mean() -> None:
    matrix = ConfusionMatrix(CLASSES)
    truth = np.array([[0, 1], [2, 2]], np.uint8)
    matrix.add(truth, np.array([[0, 1], [2, 0]], np.uint8))
    alone = matrix.scores()
    assert matrix.add(np.full((2, 2), IGNORE, np.uint8), truth) == 1.0
    assert matrix.scores().f1_challenge == alone.f1_challenge
    assert matrix.scores().images == 2
