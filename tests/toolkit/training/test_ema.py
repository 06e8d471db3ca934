"""The moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from fptk.training.ema import Ema


def test_average_follows_the_formula() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(model, 0.9)
    expected = model[0].weight.detach().clone().double()
    for step in range(200):
        with torch.no_grad():
            model[0].weight.add_(0.1)
            model[1].running_mean.add_(1)  # type: ignore[union-attr, operator]
            model[1].num_batches_tracked.add_(1)  # type: ignore[union-attr, operator]
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = expected * decay + model[0].weight.detach().double() * (1 - decay)
    averaged = ema.model.state_dict()
    torch.testing.assert_close(averaged["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert 185 < float(averaged["1.running_mean"][0]) < 200
    assert int(averaged["1.num_batches_tracked"]) == 200


def test_average_is_in_evaluation_mode_and_learns_nothing() -> None:
    ema = Ema(nn.Linear(2, 2).train(), 0.9)
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
