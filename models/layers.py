"""Pieces that several networks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution (padded so that stride 1 keeps the size), BatchNorm and, unless ``relu`` is off, ReLU.

    One ``nn.Sequential``, in which :func:`fptk.models.rewrites.fold_batchnorms` finds the pair.
    """
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias),
        nn.BatchNorm2d(out_channels),
    ]
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def upsample(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, half-pixel centres: float (B, C, h, w) to (B, C, *size)."""
    return F.interpolate(maps, size=(int(size[0]), int(size[1])), mode="bilinear", align_corners=False)


def average_into(maps: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling as two matrix products: float (B, C, H, W) to (B, C, bins, bins).

    Bin i covers rows floor(i H / bins) to ceil((i + 1) H / bins), as torch's AdaptiveAvgPool2d has it. ONNX knows no
    adaptive pooling, and a plain one can express it only where the bins divide the sides.
    """
    rows, columns = (_bin_weights(int(side), bins, maps) for side in maps.shape[2:])
    return rows @ maps @ columns.T


def _bin_weights(side: int, bins: int, like: Tensor) -> Tensor:
    """Weights of ``side`` places in each bin, (bins, side)."""
    weights = torch.zeros(bins, side, dtype=like.dtype)
    for index in range(bins):
        start, end = index * side // bins, -(-(index + 1) * side // bins)
        weights[index, start:end] = 1 / (end - start)
    return weights.to(like.device)
