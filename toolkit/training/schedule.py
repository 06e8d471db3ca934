"""How many steps a training has, at which resolution each runs, and its learning rate: all functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fptk.recipes import Recipe

WARMUP_LIMIT = 0.2
"""Largest share of a training that warm-up may take, so that a short trial of a long recipe still trains."""


@dataclass(frozen=True)
class Phase:
    """Consecutive steps of one resolution."""

    size: tuple[int, int]
    """Height and width of a training image."""
    batch: int
    """Images a step, over all processes."""
    first_step: int
    """Global number of its first step."""
    steps: int
    """Number of steps."""
    first_image: int
    """Images that all steps before it have seen."""


@dataclass(frozen=True)
class Plan:
    """The whole training, known before its first step."""

    phases: tuple[Phase, ...]
    """In order, without gaps."""
    epoch_images: int
    """Images of one pass over the training set."""
    warmup_images: float
    """Images of the linear warm-up."""

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps."""
        last = self.phases[-1]
        return last.first_step + last.steps

    @property
    def total_images(self) -> int:
        """Images seen by all steps."""
        return self.images_before(self.total_steps)

    def phase_of(self, step: int) -> Phase:
        """Phase that global ``step`` (0 <= step < total_steps) belongs to."""
        return next(phase for phase in reversed(self.phases) if phase.first_step <= step)

    def images_before(self, step: int) -> int:
        """Images that the steps before ``step`` (0 <= step <= total_steps) have seen."""
        phase = self.phase_of(step)
        return phase.first_image + (step - phase.first_step) * phase.batch

    def epoch_before(self, step: int) -> float:
        """Passes over the training set that the steps before ``step`` make, e.g. 2.5."""
        return self.images_before(step) / self.epoch_images


def make_plan(recipe: Recipe, train_images: int) -> Plan:
    """Lay out a training.

    Phases are shares of the images seen; with ``optim.max_steps`` all of them shrink alike until the steps fit.

    Args:
        recipe: what to do.
        train_images: size of the training set, at least 1.
    """
    data = recipe.data
    parts = [(phase.until, phase.size, phase.batch or data.batch) for phase in data.phases]
    parts = parts or [(1.0, data.size, data.batch)]
    shares = [end - start for (end, *_), start in zip(parts, [0.0, *(end for end, *_ in parts)], strict=False)]
    images = recipe.optim.epochs * train_images
    steps_per_image = sum(share / batch for share, (_, _, batch) in zip(shares, parts, strict=True))
    if recipe.optim.max_steps is not None:
        images = min(images, recipe.optim.max_steps / steps_per_image)
    phases: list[Phase] = []
    step = seen = 0
    for share, (_, size, batch) in zip(shares, parts, strict=True):
        steps = max(1, round(share * images / batch))
        phases.append(Phase(size, batch, step, steps, seen))
        step, seen = step + steps, seen + steps * batch
    warmup = min(recipe.optim.warmup_epochs * train_images, WARMUP_LIMIT * seen)
    return Plan(tuple(phases), train_images, warmup)


def warmup_factor(plan: Plan, step: int) -> float:
    """Share of the rate that the linear warm-up allows ``step``: above 0, and 1 after it."""
    seen = plan.images_before(step)
    if seen >= plan.warmup_images:
        return 1.0
    return min(1.0, (seen + plan.phase_of(step).batch) / plan.warmup_images)


def learning_rate(recipe: Recipe, plan: Plan, step: int) -> float:
    """Learning rate of ``step``: linear from 0 over the warm-up, then ``lr / 2 (1 + cos(pi t))``, t from 0 to 1.

    Progress is counted in images, so a change of batch size does not bend the curve. The dynamic schedule depends on
    more than the step: see :class:`fptk.training.optimizers.Pipeline`.
    """
    peak, seen = recipe.optim.lr, plan.images_before(step)
    if seen < plan.warmup_images:
        return peak * warmup_factor(plan, step)
    if recipe.optim.schedule == "constant":
        return peak
    t = (seen - plan.warmup_images) / max(1.0, plan.total_images - plan.warmup_images)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, t)))
