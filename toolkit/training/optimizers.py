"""Which optimiser steps, at which rate, and what a validation changes about it: one small state machine.

With ``optim.schedule`` cosine or constant, nothing ever changes. ``dynamic`` is Algorithm 1 of the first paper: the
recipe's Adam runs until the validation loss has not improved for ``dynamic.patience`` validations; then the best
weights are loaded again and SGD takes over; each further run of patience loads them again and halves the SGD rate,
until that would fall below ``dynamic.threshold``, which ends the training. Between two such events the rate falls from
l_max to l_max / 2 along half a cosine and stays there.

All that it remembers is a :class:`PipelineState`, which the resume state holds; the rest are functions of recipe and
step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import torch
from pydantic import ConfigDict
from torch.nn import Parameter

from fptk.recipes import Recipe
from fptk.training.schedule import Plan, learning_rate, warmup_factor


class Event(StrEnum):
    """What a validation's loss brings about."""

    NOTHING = "nothing"
    IMPROVED = "improved"
    """The lowest loss so far: the weights are to be kept."""
    SWITCHED = "switched to sgd"
    """The kept weights are to be loaded, and SGD is to step from here on."""
    HALVED = "halved the rate"
    """The kept weights are to be loaded."""
    ENDED = "ended"
    """The kept weights are to be loaded, and the training is over."""


RELOADS = frozenset({Event.SWITCHED, Event.HALVED, Event.ENDED})
"""Events at which the best weights are loaded again."""


@dataclass
class PipelineState:
    """What the state machine remembers; plain numbers, ready for JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    switched: bool = False
    """SGD has taken over."""
    halvings: int = 0
    """How often its rate was halved."""
    since_step: int = 0
    """Step of the last event, at which the cosine began anew."""
    best_loss: float | None = None
    """Lowest finite validation loss so far; None before the first."""
    stale: int = 0
    """Validations since then, or since the last event."""


class Pipeline:
    """The optimiser pipeline of one training.

    Args:
        recipe: sections ``optim`` and ``dynamic``.
        plan: steps and images.
        state: where it stands; it is changed in place.
    """

    def __init__(self, recipe: Recipe, plan: Plan, state: PipelineState) -> None:
        self.recipe, self.plan, self.state = recipe, plan, state
        self.dynamic = recipe.optim.schedule == "dynamic"
        epochs = recipe.dynamic.cycle_epochs or recipe.dynamic.patience * recipe.data.eval_every
        self._cycle_images = epochs * plan.epoch_images

    @property
    def optimizer_name(self) -> str:
        """``adamw``, ``adam`` or ``sgd``."""
        return "sgd" if self.state.switched else self.recipe.optim.name

    @property
    def peak(self) -> float:
        """l_max: the highest rate until the next event."""
        if not self.state.switched:
            return self.recipe.optim.lr
        return self.recipe.dynamic.sgd_lr * 0.5**self.state.halvings

    def optimizer(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of the kind that is to step now."""
        section, name = self.recipe.optim, self.optimizer_name
        decay = section.weight_decay
        if name == "sgd":
            return torch.optim.SGD(parameters, lr=self.peak, momentum=section.momentum, weight_decay=decay)
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return kind(parameters, lr=self.peak, weight_decay=decay, fused=True)

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, which is not before the last event.

        Dynamic: ``l_max / 4 (3 + cos(pi t))``, t from 0 at the last event to 1 a cycle later, times the warm-up.
        """
        if not self.dynamic:
            return learning_rate(self.recipe, self.plan, step)
        images = self.plan.images_before(step) - self.plan.images_before(self.state.since_step)
        t = min(1.0, images / self._cycle_images)
        return self.peak * 0.25 * (3 + math.cos(math.pi * t)) * warmup_factor(self.plan, step)

    def observe(self, loss: float, step: int) -> Event:
        """Take in the validation loss of the weights after ``step`` steps, and move on."""
        state = self.state
        if not self.dynamic:
            return Event.NOTHING
        if math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss):
            state.best_loss, state.stale = loss, 0
            return Event.IMPROVED
        state.stale += 1
        if state.stale < self.recipe.dynamic.patience:
            return Event.NOTHING
        state.stale, state.since_step = 0, step
        if not state.switched:
            state.switched = True
            return Event.SWITCHED
        if self.peak / 2 < self.recipe.dynamic.threshold:
            return Event.ENDED
        state.halvings += 1
        return Event.HALVED
