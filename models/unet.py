"""U-Net: a four-stage convolutional encoder, a bottleneck, and a decoder that takes each stage's map up again.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015), a quarter as
wide, padded so that the logits have the images' size.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.classes import NUM_CLASSES
from fptk.models.network import FaceParsingNetwork, check_num_classes, init_weights

CHANNELS = (16, 32, 64, 128)
"""Channels of each encoder stage, at strides 1, 2, 4, 8."""
BOTTLENECK = 256
"""Channels at stride 16."""


def double_conv(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by ReLU: (B, C_in, H, W) to (B, C, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
    )


class Up(nn.Module):
    """Decoder stage: double the size by a 2x2 transposed convolution, join the encoder's map, two convolutions."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.up: nn.Module = nn.ConvTranspose2d(in_channels, channels, 2, 2)
        self.convs = double_conv(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, C_in, h, w) and skip (B, C, 2 h, 2 w) to (B, C, 2 h, 2 w)."""
        out: Tensor = self.convs(torch.cat([skip, self.up(x)], dim=1))
        return out


class UNet(FaceParsingNetwork):
    """U-Net for the 19 classes of CelebAMask-HQ, 1,941,411 parameters.

    The count is that of convolutions with bias and without BatchNorm, 2x2 transposed convolutions with bias that halve
    the channels, and a 1x1 head; halving the size is 2x2 max-pooling, which has no parameters.

    Args:
        num_classes: length of the class list, 1 to 255.

    Raises:
        InputError: ``num_classes`` has another value.
    """

    deploy_form: ClassVar[str] = "fptk.models.deploy.convolutional:ConvolutionalForm"

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        check_num_classes(num_classes)
        super().__init__("unet", {"num_classes": num_classes}, nn.Identity())
        inputs = (3, *CHANNELS[:-1])
        self.encoder = nn.ModuleList(double_conv(*pair) for pair in zip(inputs, CHANNELS, strict=True))
        self.bottleneck = double_conv(CHANNELS[-1], BOTTLENECK)
        deeper = (BOTTLENECK, *CHANNELS[:0:-1])
        self.decoder = nn.ModuleList(Up(*pair) for pair in zip(deeper, CHANNELS[::-1], strict=True))
        self.classifier = nn.Conv2d(CHANNELS[0], num_classes, 1)
        self.apply(init_weights)

    def coarse(self, images: Tensor) -> Tensor:
        """Logits, (B, C, H, W), of float (B, 3, H, W): this network classifies at full size."""
        maps, x = [], images
        for stage in self.encoder:
            maps.append(stage(x))
            x = F.max_pool2d(maps[-1], 2)
        x = self.bottleneck(x)
        for up, skip in zip(self.decoder, reversed(maps), strict=True):
            x = up(x, skip)
        logits: Tensor = self.classifier(x)
        return logits
