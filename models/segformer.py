"""SegFormer, adapted: four transformer stages that attend to every token of their map, and an all-MLP decoder.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers" (2021), without the
spatial reduction of keys and values. Feature maps are kept channels-last, as in :mod:`fptk.models.microsegformer`.

At 512x512 the first stage has 16,384 tokens and its scores are a matrix of 2 x 16,384 x 16,384, 2 GiB in float32.
``scaled_dot_product_attention`` never makes it in PyTorch; the deploy form computes it in tiles. The original
graph has it whole.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.classes import NUM_CLASSES
from fptk.core.errors import InputError
from fptk.models.blocks import BilinearUpsample, ConvBN, TransformerStage, resize, to_nchw, to_nhwc
from fptk.models.network import FaceParsingNetwork, check_num_classes, init_weights

CHANNELS = (16, 32, 128, 192)
"""Channels of each stage, at strides 4, 8, 16, 32."""
DEPTHS = (1, 2, 2, 2)
"""Transformer blocks of each stage."""
HEADS = (2, 2, 2, 8)
"""Attention heads of each stage."""
MLP_RATIO = 4
EMBEDDING = 256
"""Channels of the decoder."""
SCALE = 4

HEAD_FORMS = ("bilinear", "transpose")
"""How logits at stride 4 become logits of the image's size."""


class SelfAttention(nn.Module):
    """Multi-head attention of every token to every token; query, key and value come from one Linear."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        B, H, W, C = grid.shape
        tokens = self.qkv(grid).reshape(B, 1, H * W, 3 * C)
        q, k, v = torch.split(split_heads(tokens, 3 * self.heads), self.heads, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, H, W, C))
        return out


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, L, C) or (B, 1, L, C) to (B, heads, L, C / heads)."""
    return tokens.reshape(tokens.shape[0], -1, heads, tokens.shape[-1] // heads).transpose(1, 2)


class MixFFN(nn.Module):
    """Linear, depthwise 3x3 convolution, GELU (exact), Linear (SegFormer, equation 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = channels * MLP_RATIO
        self.fc1 = nn.Linear(channels, wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.fc2 = nn.Linear(wide, channels)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        wide = to_nhwc(self.depthwise(to_nchw(self.fc1(grid))))
        out: Tensor = self.fc2(F.gelu(wide))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = MixFFN(channels)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        grid = grid + self.attention(self.norm1(grid))
        out: Tensor = grid + self.ffn(self.norm2(grid))
        return out


class Stage(TransformerStage):
    """A stage of SegFormer, that hands on (B, C, H / stride, W / stride)."""

    def __init__(self, index: int) -> None:
        super().__init__(index, CHANNELS, (Block(CHANNELS[index], HEADS[index]) for _ in range(DEPTHS[index])))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C, H / stride, W / stride)."""
        return to_nchw(super().forward(x))


class Decoder(nn.Module):
    """All-MLP decoder: every stage to 256 channels, upsampled to stride 4, concatenated, fused to 256."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleList(ConvBN(channels, EMBEDDING, bias=True) for channels in CHANNELS)
        self.fuse = ConvBN(EMBEDDING * len(CHANNELS), EMBEDDING, bias=True)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """(B, C_s, H / s, W / s) of strides s = 4, 8, 16, 32 to (B, 256, H / 4, W / 4)."""
        maps = [project(stage) for project, stage in zip(self.project, stages, strict=True)]
        maps = [maps[0], *(resize(each, maps[0].shape[2:]) for each in maps[1:])]
        out: Tensor = self.fuse(torch.cat(maps, dim=1))
        return out


class SegFormer(FaceParsingNetwork):
    """SegFormer for the 19 classes of CelebAMask-HQ.

    The counts are those of a LayerNorm after every patch embedding and after every stage, as in the original, and of
    decoder projections and fusion with bias, BatchNorm and ReLU each (the original projects by a Linear alone).

    Args:
        head: ``"bilinear"`` upsamples the logits by four (1,975,683 parameters); ``"transpose"`` by a transposed
            convolution 19 to 19 of kernel and stride 4 (1,981,478).
        num_classes: length of the class list, 1 to 255.

    Raises:
        InputError: an option has another value.
    """

    deploy_form: ClassVar[str] = "fptk.models.deploy.segformer:SegFormerForm"

    def __init__(self, head: str = "bilinear", num_classes: int = NUM_CLASSES) -> None:
        if head not in HEAD_FORMS:
            raise InputError(f"head '{head}' is unknown; choose one of: {', '.join(HEAD_FORMS)}")
        check_num_classes(num_classes)
        upsample: nn.Module = BilinearUpsample(SCALE)
        if head == "transpose":
            upsample = nn.ConvTranspose2d(num_classes, num_classes, SCALE, SCALE)
        super().__init__("segformer", {"head": head, "num_classes": num_classes}, upsample)
        self.stages = nn.ModuleList(Stage(index) for index in range(len(CHANNELS)))
        self.decoder = Decoder()
        self.classifier = nn.Conv2d(EMBEDDING, num_classes, 1)
        self.apply(init_weights)

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 4, (B, C, H / 4, W / 4), of float (B, 3, H, W)."""
        maps, x = [], images.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        logits: Tensor = self.classifier(self.decoder(maps))
        return logits
