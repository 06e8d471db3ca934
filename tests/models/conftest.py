"""Fixtures of the networks' tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

import pytest
import torch
from torch import nn

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: several threads only wait for each other, above all beside other test processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TrainedLike(Protocol):
    """Fill a network with weights that look trained and return it in evaluation mode."""

    def __call__(self, model: NetworkT, seed: int = 0) -> NetworkT: ...


@pytest.fixture
def trained_like() -> TrainedLike:
    """Non-trivial normalisation statistics and affines, biases that are not zero."""
    return _trained_like


def _trained_like(model: NetworkT, seed: int = 0) -> NetworkT:
    """Fill ``model`` with random weights whose activations stay of order one, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                # A transposed convolution whose kernel is its stride reads each input channel once per output pixel.
                transposed = isinstance(module, nn.ConvTranspose2d)
                fan_in = module.in_channels if transposed else module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * fan_in**-0.5)
                if module.bias is not None:
                    draw(module.bias, -0.5, 0.5)
            elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)) and module.weight is not None:
                draw(module.weight, 0.3, 2.0)
                draw(module.bias, -0.5, 0.5)
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                assert module.running_mean is not None
                assert module.running_var is not None
                draw(module.running_mean, -1.0, 1.0)
                draw(module.running_var, 0.2, 3.0)
    return model.eval()
