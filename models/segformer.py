"""SegFormer (Xie et al., NeurIPS 2021), adapted to two million parameters as the first paper has it.

Against SegFormer-B0: stages of 16, 32, 128 and 192 channels with depths 1, 2, 2, 2 and heads 2, 2, 2, 8; no spatial
reduction of keys and values, so that a 512x512 image attends among 16,384 tokens in the first stage; queries, keys
and values by 1x1 convolutions; decoder 256 wide, convolutions with BatchNorm and ReLU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.classes import NUM_CLASSES
from fptk.errors import InputError
from fptk.models.layers import conv_bn_relu, upsample
from fptk.models.network import FaceParsingNetwork, init_weights

CHANNELS = (16, 32, 128, 192)
DEPTHS = (1, 2, 2, 2)
HEADS = (2, 2, 2, 8)
MLP_RATIO = 4
EMBEDDING = 256
"""Channels of the decoder."""
HEAD_FORMS = ("bilinear", "transpose")
SCORES_IN_A_TILE = 1 << 24
"""Attention scores of one head that an exported graph makes at once: 64 MiB of float32."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head attention among all tokens of a map."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def _split(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, heads, H W, C / heads)."""
        B, C, H, W = maps.shape
        return maps.reshape(B, self.heads, C // self.heads, H * W).transpose(2, 3)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        q, k, v = (self._split(project(maps)) for project in (self.q, self.k, self.v))
        mixed = attend_in_tiles(q * self.scale, k, v) if torch.onnx.is_in_onnx_export() else self._attend(q, k, v)
        out: Tensor = self.proj(mixed.transpose(2, 3).reshape(maps.shape))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of scaled queries, some of them at a time; float (B, heads, L, d) each, and the result.

    In a graph that spells the attention out, 16,384 tokens would take 1 GiB for the scores of each head.
    """
    length, keys = int(q.shape[2]), k.transpose(2, 3)
    tile = min(length, max(1, SCORES_IN_A_TILE // length))
    parts = [torch.softmax(part @ keys, dim=-1) @ v for part in torch.split(q, tile, dim=2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class MixFfn(nn.Module):
    """1x1 convolution to four times the channels, 3x3 depthwise convolution, GELU, 1x1 convolution back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels * MLP_RATIO
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.contract = nn.Conv2d(inner, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        out: Tensor = self.contract(F.gelu(self.depthwise(self.expand(maps))))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attention = Attention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.ffn = MixFfn(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        maps = maps + self.attention(self.norm1(maps))
        out: Tensor = maps + self.ffn(self.norm2(maps))
        return out


def make_stage(index: int) -> nn.Sequential:
    """Patch embedding with its norm, the blocks, and a norm over what the stage hands on."""
    channels = CHANNELS[index]
    kernel, stride = (7, 4) if index == 0 else (3, 2)
    embed = nn.Conv2d(CHANNELS[index - 1] if index else 3, channels, kernel, stride, kernel // 2)
    blocks = [Block(channels, HEADS[index]) for _ in range(DEPTHS[index])]
    return nn.Sequential(embed, ChannelNorm(channels), *blocks, ChannelNorm(channels))


class SegFormer(FaceParsingNetwork):
    """SegFormer for the 19 classes of CelebAMask-HQ.

    Args:
        head: ``"bilinear"`` upsamples the logits by four (1,975,683 parameters), ``"transpose"`` by a transposed
            convolution (1,981,478).

    Raises:
        InputError: ``head`` has another value.
    """

    efficient: bool
    """Apply the fusing convolution to each stage at its own resolution and classify before upsampling (default);
    ``False`` computes in the order in which it is written: the same function, the baseline of every export."""

    def __init__(self, head: str = "bilinear") -> None:
        if head not in HEAD_FORMS:
            raise InputError(f"head '{head}' is unknown; choose one of: {', '.join(HEAD_FORMS)}")
        super().__init__("segformer", {"head": head})
        self.efficient = True
        self.stages = nn.ModuleList(make_stage(index) for index in range(len(CHANNELS)))
        self.project = nn.ModuleList(conv_bn_relu(channels, EMBEDDING, bias=True) for channels in CHANNELS)
        self.fuse = conv_bn_relu(EMBEDDING * len(CHANNELS), EMBEDDING, bias=True)
        self.classifier = nn.Conv2d(EMBEDDING, NUM_CLASSES, 1)
        self.upsample = nn.ConvTranspose2d(NUM_CLASSES, NUM_CLASSES, 4, 4) if head == "transpose" else None
        self.apply(init_weights)

    def fused(self, images: Tensor) -> Tensor:
        """What the classifier sees, (B, 256, H / 4, W / 4), of float (B, 3, H, W)."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps = [project(each) for project, each in zip(self.project, maps, strict=True)]
        size = maps[0].shape[2:]
        if not self.efficient:
            out: Tensor = self.fuse(torch.cat([maps[0], *(upsample(each, size) for each in maps[1:])], dim=1))
            return out
        # The convolution is linear and 1x1: conv(concat(up(m_i))) = sum_i up(W_i m_i) + b; no 1024-channel map.
        conv, *rest = self.fuse
        assert isinstance(conv, nn.Conv2d)
        slices = torch.split(conv.weight, EMBEDDING, dim=1)
        fused = F.conv2d(maps[0], slices[0], conv.bias)
        for each, weight in zip(maps[1:], slices[1:], strict=True):
            fused = fused + upsample(F.conv2d(each, weight), size)
        for layer in rest:
            fused = layer(fused)
        return fused

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 4, float (B, 19, H / 4, W / 4)."""
        logits: Tensor = self.classifier(self.fused(images))
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits, (B, 19, H, W), of float (B, 3, H, W)."""
        if self.upsample is not None:
            out: Tensor = self.upsample(self.coarse(images))
            return out
        if self.efficient:
            return upsample(self.coarse(images), images.shape[2:])
        late: Tensor = self.classifier(upsample(self.fused(images), images.shape[2:]))
        return late
