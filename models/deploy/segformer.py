"""SegFormer's deploy form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.models.deploy import rewrites as exact
from fptk.models.deploy.form import (
    NetworkForm,
    SplitFusion,
    Standardise,
    TokenStage,
    attend,
    to_maps,
    to_tokens,
)
from fptk.models.engine_form import EngineForm
from fptk.models.segformer import EMBEDDING, Block, Decoder, MixFFN, SelfAttention, Stage, split_heads


class SegFormerForm(NetworkForm):
    """SegFormer rewritten.

    Its projections stay where they are: with as many keys as queries and several heads, moving the query projection to
    the key side (rewrite 3) would add work.
    """

    applies: ClassVar[tuple[str, ...]] = (
        "merged_decoder",
        "folded_norms",
        "folded_normalisation",
        "label_map",
        "folded_batchnorms",
        "shuffled_upsampling",
    )

    def rewritten(self, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Stage):
            blocks = [BlockForm(block, self.form, self.rewrites) for block in module.blocks if isinstance(block, Block)]
            return TokenStage(module.embed, blocks, module.norm, self.form)
        if isinstance(module, Decoder) and "merged_decoder" in self.rewrites:
            return DecoderForm(module)
        return super().rewritten(module)


class BlockForm(nn.Module):
    """A transformer block on tokens (N, H W, C); both LayerNorms folded (rewrite 5) if chosen."""

    def __init__(self, block: Block, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__()
        self.norm1: nn.Module = block.norm1
        self.norm2: nn.Module = block.norm2
        if "folded_norms" in chosen:
            block.attention.qkv = exact.fold_norm_into_linear(block.norm1, block.attention.qkv)
            block.ffn.fc1 = exact.fold_norm_into_linear(block.norm2, block.ffn.fc1)
            self.norm1, self.norm2 = Standardise(block.norm1), Standardise(block.norm2)
        self.attention = TiledAttention(block.attention, form)
        self.ffn = TokenFFN(block.ffn, form)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.ffn(self.norm2(tokens), height, width)
        return out


class TiledAttention(nn.Module):
    """Multi-head attention on tokens (N, H W, C), in tiles where there are many, the scale folded into the queries.

    Heads are split off before query, key and value are: of the product split the other way round, TensorRT-RTX 1.7
    makes a float kernel, quantised or not.
    """

    def __init__(self, attention: SelfAttention, form: EngineForm) -> None:
        super().__init__()
        self.heads, self.form = attention.heads, form
        self.qkv = exact.scale_queries(attention.qkv, attention.scale)
        self.proj = attention.proj

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = torch.split(split_heads(self.qkv(tokens), 3 * self.heads), self.heads, dim=1)
        mixed = attend(q, k.transpose(-1, -2), v, self.form)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(tokens.shape))
        return out


class TokenFFN(nn.Module):
    """Mix-FFN on tokens (N, H W, C)."""

    def __init__(self, ffn: MixFFN, form: EngineForm) -> None:
        super().__init__()
        self.form = form
        self.fc1, self.depthwise, self.fc2 = ffn.fc1, ffn.depthwise, ffn.fc2

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        wide = self.depthwise(to_maps(self.fc1(tokens), height, width, self.form))
        out: Tensor = self.fc2(F.gelu(to_tokens(wide, self.form)))
        return out


class DecoderForm(nn.Module):
    """The decoder without the 1,024-channel map (rewrite 2).

    The ReLU between a stage's projection and the fusion keeps the two from becoming one map.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        fuse, self.norm, self.relu = decoder.fuse
        assert isinstance(fuse, nn.Conv2d)
        self.project = decoder.project
        self.fuse = SplitFusion(exact.split_fusion(fuse, [EMBEDDING] * len(decoder.project)))

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        maps = [project(stage) for project, stage in zip(self.project, stages, strict=True)]
        out: Tensor = self.relu(self.norm(self.fuse(maps)))
        return out
