"""Fast-SCNN: learning to downsample, a global feature extractor of inverted bottlenecks, feature fusion, classifier.

Poudel, Liwicki and Cipolla, "Fast-SCNN: Fast Semantic Segmentation Network" (2019).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.classes import NUM_CLASSES
from fptk.models.blocks import BilinearUpsample, ConvBN, Dropout, resize
from fptk.models.network import FaceParsingNetwork, check_dropout, check_num_classes, init_weights

DOWNSAMPLE = (32, 48, 64)
"""Channels of learning to downsample, at strides 2, 4, 8."""
BOTTLENECKS = ((64, 2), (96, 2), (128, 1))
"""Channels and first stride of each group of three inverted bottlenecks; the last is at stride 32."""
REPEATS = 3
EXPANSION = 6
LEVELS = (1, 2, 3, 6)
"""Sides of the pyramid's pooled maps."""
FUSION = 128


def separable(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    """DS-conv: depthwise 3x3 and pointwise convolution, each with BatchNorm and ReLU."""
    return nn.Sequential(
        ConvBN(in_channels, in_channels, 3, stride=stride, groups=in_channels), ConvBN(in_channels, channels)
    )


class Bottleneck(nn.Module):
    """Inverted bottleneck (MobileNetV2): expand, depthwise 3x3, project; added to its input where shapes allow."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = in_channels * EXPANSION
        self.layers = nn.Sequential(
            ConvBN(in_channels, wide),
            ConvBN(wide, wide, 3, stride=stride, groups=wide),
            ConvBN(wide, channels, relu=False),
        )
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C, h / stride, w / stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class PyramidPooling(nn.Module):
    """Pyramid pooling (PSPNet): means over 1x1, 2x2, 3x3 and 6x6 bins, each to C / 4 channels, joined by a 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // len(LEVELS)
        self.levels = nn.ModuleList(ConvBN(channels, part) for _ in LEVELS)
        self.project = ConvBN(channels + part * len(LEVELS), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        pooled = [level(F.adaptive_avg_pool2d(x, side)) for side, level in zip(LEVELS, self.levels, strict=True)]
        out: Tensor = self.project(torch.cat([x, *(resize(each, x.shape[2:]) for each in pooled)], dim=1))
        return out


class FeatureFusion(nn.Module):
    """Adds the deep map, upsampled and convolved, to the early map of stride 8."""

    def __init__(self, early_channels: int, deep_channels: int, channels: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(separable(deep_channels, channels), ConvBN(channels, channels, relu=False))
        self.early = ConvBN(early_channels, channels, relu=False)

    def forward(self, early: Tensor, deep: Tensor) -> Tensor:
        """early (B, C_e, h, w) and deep (B, C_d, h / 4, w / 4) to (B, C, h, w)."""
        return F.relu(self.early(early) + self.deep(resize(deep, early.shape[2:])))


class FastSCNN(FaceParsingNetwork):
    """Fast-SCNN for the 19 classes of CelebAMask-HQ, 1,154,435 parameters.

    The count is that of no bias before a BatchNorm, a bias in the classifier, and a *separable* convolution on the deep
    map of the feature fusion (depthwise and pointwise, each with BatchNorm and ReLU) before its 1x1 convolution: with
    the paper's depthwise one alone the network has 16,384 parameters fewer (its bias terms counted).

    The pyramid's BatchNorm on the 1x1 level sees one value per image: a training step needs two images.

    Args:
        dropout: probability in [0, 1) of the dropout before the classifier.
        num_classes: length of the class list, 1 to 255.

    Raises:
        InputError: an option has another value.
    """

    min_training_batch: ClassVar[int] = 2
    deploy_form: ClassVar[str] = "fptk.models.deploy.convolutional:ConvolutionalForm"

    def __init__(self, dropout: float = 0.1, num_classes: int = NUM_CLASSES) -> None:
        check_dropout(dropout)
        check_num_classes(num_classes)
        options = {"dropout": float(dropout), "num_classes": num_classes}
        super().__init__("fastscnn", options, BilinearUpsample(8))
        first, second, early = DOWNSAMPLE
        self.downsample = nn.Sequential(
            ConvBN(3, first, 3, stride=2), separable(first, second, 2), separable(second, early, 2)
        )
        self.features = nn.Sequential(*_bottlenecks(early))
        self.pyramid: nn.Module = PyramidPooling(BOTTLENECKS[-1][0])
        self.fusion = FeatureFusion(early, BOTTLENECKS[-1][0], FUSION)
        self.head = nn.Sequential(separable(FUSION, FUSION), separable(FUSION, FUSION), Dropout(float(dropout)))
        self.classifier = nn.Conv2d(FUSION, num_classes, 1)
        self.apply(init_weights)

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 8, (B, C, H / 8, W / 8), of float (B, 3, H, W)."""
        early = self.downsample(images)
        deep = self.pyramid(self.features(early))
        logits: Tensor = self.classifier(self.head(self.fusion(early, deep)))
        return logits


def _bottlenecks(channels: int) -> list[Bottleneck]:
    blocks = []
    for out_channels, stride in BOTTLENECKS:
        for repeat in range(REPEATS):
            blocks.append(Bottleneck(channels, out_channels, 1 if repeat else stride))
            channels = out_channels
    return blocks
