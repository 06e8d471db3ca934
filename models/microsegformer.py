"""MicroSegFormer: a four-stage hierarchical transformer encoder, an all-MLP decoder and an optional LMSA module.

Feature maps are kept channels-last, (B, H, W, C): Linear and LayerNorm read them as they are, and a convolution sees
the same memory as a channels-last (B, C, H, W) tensor. No layout is ever changed by a copy.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.classes import NUM_CLASSES
from fptk.core.errors import InputError
from fptk.models.blocks import BilinearUpsample, Dropout, TransformerStage, resize, to_nchw, to_nhwc
from fptk.models.lmsa import CompactLMSA, MultiscaleLMSA
from fptk.models.network import FaceParsingNetwork, check_dropout, check_num_classes, init_weights

CHANNELS = (32, 64, 128, 192)
"""Channels of each stage."""
DEPTHS = (1, 2, 2, 2)
"""Transformer blocks of each stage."""
REDUCTIONS = (8, 4, 2, 1)
"""Spatial reduction of keys and values in each stage: at every stage they stand on the grid of stride 32."""
MLP_RATIO = 2
EMBEDDING = 128
"""Channels of the decoder."""

LMSA_FORMS: dict[str, type[CompactLMSA] | type[MultiscaleLMSA]] = {
    "compact": CompactLMSA,
    "multiscale": MultiscaleLMSA,
}


class Attention(nn.Module):
    """Single-head attention whose keys and values stand on a grid reduced by a strided convolution."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce: nn.Conv2d | None = None
        self.reduce_norm: nn.LayerNorm | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(channels)

    def source(self, grid: Tensor) -> Tensor:
        """Tokens that keys and values are made of: (B, H, W, C) to (B, 1, Nk, C)."""
        if self.reduce is not None and self.reduce_norm is not None:
            grid = self.reduce_norm(to_nhwc(self.reduce(to_nchw(grid))))
        return grid.flatten(1, 2).unsqueeze(1)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        B, H, W, C = grid.shape
        source = self.source(grid)
        q = self.q(grid.reshape(B, 1, H * W, C))
        mixed = F.scaled_dot_product_attention(q, self.k(source), self.v(source), scale=self.scale)
        out: Tensor = self.proj(mixed.reshape(B, H, W, C))
        return out


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear, on the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels * MLP_RATIO)
        self.fc2 = nn.Linear(channels * MLP_RATIO, channels)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(grid)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, reduction)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        grid = grid + self.attention(self.norm1(grid))
        out: Tensor = grid + self.mlp(self.norm2(grid))
        return out


class Stage(TransformerStage):
    """A stage of MicroSegFormer."""

    def __init__(self, index: int) -> None:
        super().__init__(index, CHANNELS, (Block(CHANNELS[index], REDUCTIONS[index]) for _ in range(DEPTHS[index])))


class Decoder(nn.Module):
    """All-MLP decoder: every stage to 128 channels at stride 4, fused by Linear, GELU, dropout, Linear."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(channels, EMBEDDING) for channels in CHANNELS)
        self.fuse1 = nn.Linear(EMBEDDING * len(CHANNELS), EMBEDDING)
        self.dropout = Dropout(dropout)
        self.fuse2 = nn.Linear(EMBEDDING, EMBEDDING)

    def forward(self, stages: list[Tensor], *, as_written: bool = False) -> Tensor:
        """Fused map.

        Args:
            stages: (B, H / s, W / s, C_s) of strides s = 4, 8, 16, 32.
            as_written: concatenate as the paper does (:meth:`fused_as_written`) instead of merging the linear maps
                (:meth:`fused_merged`); the same function.

        Returns:
            (B, H / 4, W / 4, 128).
        """
        fused = self.fused_as_written(stages) if as_written else self.fused_merged(stages)
        out: Tensor = self.fuse2(self.dropout(F.gelu(fused)))
        return out

    def fused_as_written(self, stages: list[Tensor]) -> Tensor:
        """What the paper writes: project, upsample 128 channels, concatenate 512, fuse."""
        size = stages[0].shape[1:3]
        maps = [to_nchw(project(stage)) for project, stage in zip(self.project, stages, strict=True)]
        maps = [maps[0], *(resize(each, size) for each in maps[1:])]
        fused: Tensor = self.fuse1(to_nhwc(torch.cat(maps, dim=1)))
        return fused

    def fused_merged(self, stages: list[Tensor]) -> Tensor:
        """The same without the 512-channel map: one C_i to 128 map per stage at its own resolution, upsample, add."""
        size = stages[0].shape[1:3]
        weights, bias = self.merged()
        fused = F.linear(stages[0], weights[0], bias)
        for stage, weight in zip(stages[1:], weights[1:], strict=True):
            fused = fused + to_nhwc(resize(to_nchw(F.linear(stage, weight)), size))
        return fused

    def merged(self) -> tuple[list[Tensor], Tensor]:
        """Weights (128, C_i) of the merged maps and their one bias (128), differentiable.

        fuse1(concat_i up(P_i s_i + p_i)) = sum_i up(F_i P_i s_i) + (f + sum_i F_i p_i), with F_i the i-th 128 columns
        of fuse1's weight: upsampling is linear per channel and keeps constants.
        """
        slices = torch.split(self.fuse1.weight, EMBEDDING, dim=1)
        bias: Tensor = self.fuse1.bias
        weights = []
        with torch.autocast(bias.device.type, enabled=False):  # products of weights keep the weights' precision
            for part, project in zip(slices, self.project, strict=True):
                assert isinstance(project, nn.Linear)
                weights.append(part @ project.weight)
                bias = bias + part @ project.bias
        return weights, bias


class MicroSegFormer(FaceParsingNetwork):
    """MicroSegFormer; its sizes are those for the 19 classes of CelebAMask-HQ.

    Args:
        lmsa: ``"compact"`` (1,747,923 parameters), ``"multiscale"`` (1,818,579) or ``None`` (1,721,939); see
            :mod:`fptk.models.lmsa` for why there are two.
        dropout: probability in [0, 1) of the dropout after the decoder's GELU.
        num_classes: length of the class list, 1 to 255.

    Raises:
        InputError: an option has another value.
    """

    deploy_form: ClassVar[str] = "fptk.models.deploy.microsegformer:MicroSegFormerForm"

    def __init__(self, lmsa: str | None = "compact", dropout: float = 0.15, num_classes: int = NUM_CLASSES) -> None:
        if lmsa is not None and lmsa not in LMSA_FORMS:
            raise InputError(f"lmsa '{lmsa}' is unknown; choose one of: {', '.join(LMSA_FORMS)}, None")
        check_dropout(dropout)
        check_num_classes(num_classes)
        options = {"lmsa": lmsa, "dropout": float(dropout), "num_classes": num_classes}
        super().__init__("microsegformer", options, BilinearUpsample(4))
        self._as_written = False
        self.stages = nn.ModuleList(Stage(index) for index in range(len(CHANNELS)))
        self.decoder = Decoder(float(dropout))
        self.lmsa: nn.Module | None = LMSA_FORMS[lmsa](EMBEDDING) if lmsa else None
        self.classifier = nn.Conv2d(EMBEDDING, num_classes, 1)
        self.apply(init_weights)

    def original(self) -> Self:
        """A copy that concatenates in the decoder and classifies at full size: the same function, half as fast."""
        network = super().original()
        network._as_written = True
        return network

    def encode(self, images: Tensor) -> list[Tensor]:
        """The four stages' maps, (B, H / s, W / s, C_s), of float (B, 3, H, W)."""
        x = images.contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            maps.append(stage(x))
            x = to_nchw(maps[-1])
        return maps

    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees, (B, 128, H / 4, W / 4), of float (B, 3, H, W)."""
        fused = to_nchw(self.decoder(self.encode(images), as_written=self._as_written))
        return fused if self.lmsa is None else self.lmsa(fused)

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 4, (B, C, H / 4, W / 4), of float (B, 3, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits, (B, C, H, W), of float (B, 3, H, W).

        A 1x1 convolution commutes with bilinear upsampling, whose weights sum to one: this network classifies
        at stride 4 and upsamples 19 channels instead of 128; :meth:`original` does not.
        """
        if not self._as_written:
            return super().logits(images)
        out: Tensor = self.classifier(self.upsample(self.features(images)))
        return out
