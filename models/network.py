"""What every network of fptk has in common: its name, its resolved options, its input and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fptk.preprocess import check_size


class FaceParsingNetwork(nn.Module):
    """Base of the registry's networks.

    ``logits = network(images)``: images float32 (B, 3, H, W), normalised, H and W multiples of 32; logits float32
    (B, 19, H, W), unbounded. A subclass overrides :meth:`logits`.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        """Name in the registry."""
        self.options = dict(options)
        """Every option with its value, JSON-able: ``create_model(name, **options)`` builds this network again."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            images: float (B, 3, H, W), normalised per channel.

        Returns:
            float (B, 19, H, W).

        Raises:
            InputError: H or W is no positive multiple of 32.
        """
        check_size(int(images.shape[2]), int(images.shape[3]))
        return self.logits(images)

    def logits(self, images: Tensor) -> Tensor:
        """The network itself, on an input whose size was checked."""
        raise TypeError(f"{type(self).__name__} does not define logits()")


def init_weights(module: nn.Module) -> None:
    """Initialise one module as SegFormer does: Linear truncated normal 0.02, convolutions Kaiming fan-out.

    Use with ``network.apply(init_weights)``. A depthwise convolution's fan-out counts one group.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        with torch.no_grad():
            module.weight.normal_(0.0, (2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
