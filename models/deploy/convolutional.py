"""The deploy form of the convolutional networks: U-Net, DeepLabV3Plus and Fast-SCNN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.models.deeplabv3plus import ASPP
from fptk.models.deploy import rewrites as exact
from fptk.models.deploy.form import NetworkForm
from fptk.models.fastscnn import LEVELS, PyramidPooling


class ConvolutionalForm(NetworkForm):
    """A convolutional network rewritten.

    One of another package may name it too, if a single convolution reads its images, no other convolution takes three
    channels, and the kernels of its transposed convolutions are their strides.
    """

    applies: ClassVar[tuple[str, ...]] = (
        "folded_normalisation",
        "label_map",
        "folded_batchnorms",
        "shuffled_upsampling",
        "split_context",
    )

    def rewritten(self, module: nn.Module) -> nn.Module | None:
        if "split_context" in self.rewrites:
            if isinstance(module, ASPP):
                return ContextASPP(module)
            if isinstance(module, PyramidPooling):
                return PooledTokens(module)
        return super().rewritten(module)


class ContextASPP(nn.Module):
    """Rewrite 9 of an ASPP: the image's mean goes through Linears and is added as one vector per image.

    Made of matrix products, the branch behind the mean is recognised and kept in float where an engine's int8 form of
    it is wrong (:func:`fptk.calibration.openvino_forms.gate_layers`).
    """

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        channels = [conv_of(branch).out_channels for branch in (*aspp.branches, aspp.pool)]
        maps, mean = exact.split_fusion(conv_of(aspp.project), [sum(channels[:-1]), channels[-1]])
        self.branches, self.project = aspp.branches, maps
        self.pool, self.context = exact.conv_as_linear(conv_of(aspp.pool)), exact.conv_as_linear(mean)

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(F.relu(self.pool(x.mean(dim=(2, 3)))))
        maps = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return F.relu(maps + context[:, :, None, None])


class PooledTokens(nn.Module):
    """Rewrite 9 of a pyramid pooling: all bins of all levels as the 50 tokens of one matrix product."""

    def __init__(self, pyramid: PyramidPooling) -> None:
        super().__init__()
        levels = [conv_of(level) for level in pyramid.levels]
        project = conv_of(pyramid.project)
        maps, *parts = exact.split_fusion(project, [levels[0].in_channels, *(level.out_channels for level in levels)])
        self.project = maps
        self.reduce = nn.ModuleList(exact.conv_as_linear(level) for level in levels)
        self.fuse = nn.ModuleList(exact.conv_as_linear(part) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.shape[3])
        pooling, interpolation = exact.pyramid_matrices(height, width, LEVELS)
        bins = (x.flatten(2) @ pooling.to(x)).transpose(1, 2)  # (N, 50, C)
        parts = torch.split(bins, [side * side for side in LEVELS], dim=1)
        fused = [fuse(F.relu(reduce(part))) for part, reduce, fuse in zip(parts, self.reduce, self.fuse, strict=True)]
        context = torch.cat(fused, dim=1).transpose(1, 2) @ interpolation.to(x)  # (N, C, H W)
        return F.relu(self.project(x) + context.reshape(x.shape))


def conv_of(sequence: nn.Module) -> nn.Conv2d:
    """The convolution that a :class:`fptk.models.blocks.ConvBN` opens with."""
    assert isinstance(sequence, Iterable)
    conv = next(iter(sequence))
    assert isinstance(conv, nn.Conv2d)
    return conv
