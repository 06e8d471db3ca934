"""Building blocks that several networks share: layouts, patch embedding, convolutions with normalisation, dropout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_nchw(grid: Tensor) -> Tensor:
    """View (B, H, W, C) as (B, C, H, W); no copy."""
    return grid.permute(0, 3, 1, 2)


def to_nhwc(maps: Tensor) -> Tensor:
    """View (B, C, H, W) as (B, H, W, C); no copy where ``maps`` is channels-last."""
    return maps.permute(0, 2, 3, 1)


def resize(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear interpolation with half-pixel centres: (B, C, h, w) to (B, C, *size)."""
    return F.interpolate(maps, size=(int(size[0]), int(size[1])), mode="bilinear", align_corners=False)


class BilinearUpsample(nn.Module):
    """Bilinear upsampling by a whole factor, half-pixel centres: (B, C, h, w) to (B, C, scale h, scale w)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, maps: Tensor) -> Tensor:
        return resize(maps, (maps.shape[2] * self.scale, maps.shape[3] * self.scale))


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: a strided convolution, then LayerNorm over channels."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, H / stride, W / stride, C)."""
        grid: Tensor = self.norm(to_nhwc(self.conv(x)))
        return grid


class TransformerStage(nn.Module):
    """Patch embedding (7x7 by 4 in the first stage, 3x3 by 2 in the others), blocks, and a LayerNorm over the result.

    Args:
        index: number of the stage, from 0.
        channels: of every stage of the network.
        blocks: each takes and returns (B, H, W, C).
    """

    def __init__(self, index: int, channels: Sequence[int], blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        kernel, stride = (7, 4) if index == 0 else (3, 2)
        self.embed = PatchEmbed(channels[index - 1] if index else 3, channels[index], kernel, stride)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels[index])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, H / stride, W / stride, C)."""
        grid = self.embed(x)
        for block in self.blocks:
            grid = block(grid)
        out: Tensor = self.norm(grid)
        return out


class ConvBN(nn.Sequential):
    """Convolution, padded to keep the size at stride 1, and BatchNorm; ReLU unless ``relu`` is false.

    A Sequential, so that :func:`fptk.models.deploy.rewrites.fold_batchnorms` finds the pair.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        relu: bool = True,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, groups, bias),
            nn.BatchNorm2d(channels),
            *([nn.ReLU()] if relu else []),
        )


class Dropout(nn.Dropout):
    """Dropout whose mask costs a third of torch's on a CPU, where drawing it is 5 % of a training step.

    One 64-bit draw of the global generator decides four elements, so p is rounded to a multiple of 1 / 65536.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape; the identity in evaluation mode."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = draws.view(torch.int16)[: input.numel()].view(input.shape)
        kept = levels >= round(self.p * 2**16) - 2**15
        return input * (kept.to(input.dtype) * (1 / (1 - self.p)))
