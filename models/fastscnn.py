"""Fast-SCNN (Poudel et al., BMVC 2019): learning to downsample, global features, fusion, classifier at stride 8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.classes import NUM_CLASSES
from fptk.models.layers import average_into, conv_bn_relu, upsample
from fptk.models.network import FaceParsingNetwork, init_weights

EXPANSION = 6
BOTTLENECKS = ((64, 2), (96, 2), (128, 1))
"""Channels and stride of each group of three bottlenecks."""
DEPTH = 3
BINS = (1, 2, 3, 6)
"""Grids of the pyramid pooling."""
FUSION = 128


def separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then pointwise convolution, each with BatchNorm and ReLU."""
    return nn.Sequential(
        conv_bn_relu(in_channels, in_channels, 3, stride=stride, groups=in_channels),
        conv_bn_relu(in_channels, out_channels),
    )


class Bottleneck(nn.Module):
    """Inverted residual of MobileNetV2 (Sandler et al., 2018)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * EXPANSION
        self.residual = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            conv_bn_relu(in_channels, inner),
            conv_bn_relu(inner, inner, 3, stride=stride, groups=inner),
            conv_bn_relu(inner, out_channels, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class PyramidPooling(nn.Module):
    """Means over 1, 2, 3 and 6 by as many bins, each reduced to a quarter of the channels, beside the map itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv_bn_relu(channels, channels // len(BINS)) for _ in BINS)
        self.project = conv_bn_relu(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        pooled = [
            upsample(reduce(average_into(x, bins)), x.shape[2:]) for bins, reduce in zip(BINS, self.reduce, strict=True)
        ]
        out: Tensor = self.project(torch.cat([x, *pooled], dim=1))
        return out


class FastSCNN(FaceParsingNetwork):
    """Fast-SCNN for the 19 classes of CelebAMask-HQ, 1,154,435 parameters.

    The common implementation has 1,138,051. The count that the first paper reports is met where the coarse branch of
    the fusion is a depthwise and a pointwise convolution under one BatchNorm, 128 x 128 weights more; so it is here.

    Training needs batches of at least two: a BatchNorm of the pyramid pooling sees one value per image.
    """

    def __init__(self) -> None:
        super().__init__("fastscnn", {})
        self.downsample = nn.Sequential(conv_bn_relu(3, 32, 3, stride=2), separable(32, 48, 2), separable(48, 64, 2))
        blocks, channels = [], 64
        for width, stride in BOTTLENECKS:
            for index in range(DEPTH):
                blocks.append(Bottleneck(channels, width, 1 if index else stride))
                channels = width
        self.features = nn.Sequential(*blocks, PyramidPooling(channels))
        self.low = nn.Sequential(
            nn.Conv2d(channels, FUSION, 3, padding=1, groups=FUSION, bias=False),
            conv_bn_relu(FUSION, FUSION),
            conv_bn_relu(FUSION, FUSION, bias=True, relu=False),
        )
        self.high = conv_bn_relu(64, FUSION, bias=True, relu=False)
        self.classifier = nn.Sequential(
            separable(FUSION, FUSION), separable(FUSION, FUSION), nn.Dropout(0.1), nn.Conv2d(FUSION, NUM_CLASSES, 1)
        )
        self.apply(init_weights)

    def logits(self, images: Tensor) -> Tensor:
        """Logits, (B, 19, H, W), of float (B, 3, H, W)."""
        high = self.downsample(images)  # 64 channels at stride 8
        low = self.low(upsample(self.features(high), high.shape[2:]))
        return upsample(self.classifier(F.relu(low + self.high(high))), images.shape[2:])
