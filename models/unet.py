"""U-Net (Ronneberger et al., MICCAI 2015) with 16 to 256 channels, as the first paper has it: no BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fptk.classes import NUM_CLASSES
from fptk.models.network import FaceParsingNetwork, init_weights

CHANNELS = (16, 32, 64, 128, 256)
"""Channels at strides 1, 2, 4, 8 and, the bottleneck, 16."""


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two padded 3x3 convolutions with ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(),
    )


class UNet(FaceParsingNetwork):
    """U-Net for the 19 classes of CelebAMask-HQ, 1,941,411 parameters."""

    def __init__(self) -> None:
        super().__init__("unet", {})
        pairs = list(zip((3, *CHANNELS[:-1]), CHANNELS, strict=True))
        self.down = nn.ModuleList(double_conv(*pair) for pair in pairs)
        self.pool = nn.MaxPool2d(2)
        steps = list(zip(CHANNELS[:0:-1], CHANNELS[-2::-1], strict=True))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for wide, narrow in steps)
        self.up = nn.ModuleList(double_conv(2 * narrow, narrow) for _, narrow in steps)
        self.classifier = nn.Conv2d(CHANNELS[0], NUM_CLASSES, 1)
        self.apply(init_weights)

    def logits(self, images: Tensor) -> Tensor:
        """Logits, (B, 19, H, W), of float (B, 3, H, W)."""
        skips, x = [], images
        for index, down in enumerate(self.down):
            x = down(self.pool(x) if index else x)
            skips.append(x)
        for rise, up, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = up(torch.cat([skip, rise(x)], dim=1))
        out: Tensor = self.classifier(x)
        return out
