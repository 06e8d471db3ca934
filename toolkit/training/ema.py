"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A second network whose weights follow the trained one.

    After step t: ``average += (1 - d) * (weights - average)`` with d = min(decay, (1 + t) / (10 + t)), so that the
    random initial weights are forgotten at once. Floating-point buffers (BatchNorm statistics) are averaged too.

    Args:
        model: the network to follow, unwrapped.
        decay: d in the long run, 0 < decay < 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards ``model`` after global ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        source = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                averages.append(value)
                weights.append(source[name])
            else:
                value.copy_(source[name])
        torch._foreach_lerp_(averages, weights, 1 - decay)
