"""DeepLabV3+ (Chen et al., ECCV 2018) with a small encoder of its own, as the first paper has it.

The original that the paper builds on writes the image size, 256, into its upsampling; here every size that is a
multiple of 32 is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fptk.classes import NUM_CLASSES
from fptk.models.layers import conv_bn_relu, upsample
from fptk.models.network import FaceParsingNetwork, init_weights

ENCODER = ((3, 32, 64), (64, 64, 128), (128, 192, 256))
"""Channels of each pair of convolutions; a max-pooling follows each."""
RATES = (6, 12, 18)
"""Dilations of the atrous spatial pyramid, at stride 8."""
PYRAMID = 128
SKIP = 32
DECODER = 64


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, three dilated 3x3 ones and the image's mean, then 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(channels, PYRAMID, bias=True),
                *(conv_bn_relu(channels, PYRAMID, 3, dilation=rate, bias=True) for rate in RATES),
            ]
        )
        self.pooled = conv_bn_relu(channels, PYRAMID, bias=True)
        self.project = conv_bn_relu(PYRAMID * (len(RATES) + 2), PYRAMID, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 256, H, W) to (B, 128, H, W)."""
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        out: Tensor = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return out


class DeepLabV3Plus(FaceParsingNetwork):
    """DeepLabV3+ for the 19 classes of CelebAMask-HQ, 1,964,394 parameters.

    Training needs batches of at least two: the BatchNorm behind the image's mean sees one value per image.
    """

    def __init__(self) -> None:
        super().__init__("deeplabv3plus", {})
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_bn_relu(a, b, 3, bias=True), conv_bn_relu(b, c, 3, bias=True), nn.MaxPool2d(2))
            for a, b, c in ENCODER
        )
        self.pyramid = AtrousPyramid(ENCODER[-1][-1])
        self.skip = conv_bn_relu(ENCODER[0][-1], SKIP, bias=True)
        self.decoder = nn.Sequential(
            conv_bn_relu(PYRAMID + SKIP, DECODER, 3, bias=True), conv_bn_relu(DECODER, DECODER, 3, bias=True)
        )
        self.classifier = nn.Conv2d(DECODER, NUM_CLASSES, 1)
        self.upsample = nn.ConvTranspose2d(NUM_CLASSES, NUM_CLASSES, 2, 2)
        self.apply(init_weights)

    def logits(self, images: Tensor) -> Tensor:
        """Logits, (B, 19, H, W), of float (B, 3, H, W)."""
        maps, x = [], images
        for pair in self.encoder:
            x = pair(x)
            maps.append(x)
        skip = self.skip(maps[0])  # 64 channels at stride 2
        x = upsample(self.pyramid(x), skip.shape[2:])
        out: Tensor = self.upsample(self.classifier(self.decoder(torch.cat([x, skip], dim=1))))
        return out
