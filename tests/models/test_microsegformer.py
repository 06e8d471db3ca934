"""The merged decoder computes what the paper's order of operations computes, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fptk.models import create_model
from fptk.models.blocks import Dropout


@pytest.mark.parametrize("lmsa", ["compact", "multiscale", None])
def test_the_original_agrees_in_output_and_gradients(lmsa: str | None, trained_like: Any) -> None:
    model = trained_like(create_model(lmsa=lmsa)).double().train()
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    weight = torch.randn(2, 19, 96, 64, dtype=torch.float64)
    outputs, gradients = [], []
    for network in (model, model.original()):
        network.zero_grad()
        torch.manual_seed(7)  # the same dropout mask
        logits = network(images)
        (logits * weight).sum().backward()
        outputs.append(logits.detach())
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12 * float(outputs[1].abs().max()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * float(theirs.abs().max()) + 1e-12)


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.15).train()
    x = torch.ones(3, 101, 1001)
    y = dropout(x)
    assert abs(float((y == 0).float().mean()) - 0.15) < 0.003
    assert abs(float(y.mean()) - 1.0) < 0.005
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)
