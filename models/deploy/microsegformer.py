"""MicroSegFormer's deploy form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.preprocess import check_size
from fptk.models.blocks import to_nchw, to_nhwc
from fptk.models.deploy import inexact
from fptk.models.deploy import rewrites as exact
from fptk.models.deploy.form import (
    DeployForm,
    RootMeanSquare,
    SplitFusion,
    Standardise,
    TokenStage,
    attend,
    linear_as_conv,
    to_maps,
    to_tokens,
)
from fptk.models.engine_form import EngineForm
from fptk.models.lmsa import CompactLMSA, MultiscaleLMSA
from fptk.models.microsegformer import Attention, Block, MicroSegFormer, Mlp, Stage


class MicroSegFormerForm(DeployForm):
    """MicroSegFormer rewritten."""

    applies: ClassVar[tuple[str, ...]] = (
        "classifier_first",
        "merged_decoder",
        "folded_attention",
        "collapsed_lmsa",
        "folded_norms",
        "folded_normalisation",
        "label_map",
    )

    def __init__(self, model: MicroSegFormer, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__(form, chosen, model.upsample)
        self.stages = nn.ModuleList(
            stage_form(stage, form, chosen) for stage in model.stages if isinstance(stage, Stage)
        )
        self.fuse: nn.Module = MergedFuse(model, form) if "merged_decoder" in chosen else PlainFuse(model)
        self.head: nn.Module = Head(model, form) if "collapsed_lmsa" in chosen else PlainHead(model)

    def forward(self, images: Tensor) -> Tensor:
        if "classifier_first" in self.rewrites:
            return super().forward(images)
        check_size(int(images.shape[2]), int(images.shape[3]))
        assert isinstance(self.head, PlainHead)
        logits: Tensor = self.head.classifier(self.upsample(self.head.features(self.fused(images))))
        return logits

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 4, float (N, 19, H / 4, W / 4), of float (N, 3, H, W)."""
        logits: Tensor = self.head(self.fused(images))
        return logits

    def fused(self, images: Tensor) -> Tensor:
        """The decoder's map, float (N, 128, H / 4, W / 4)."""
        stages, x = [], images
        for stage in self.stages:
            assert isinstance(stage, TokenStage)
            tokens, height, width = stage.tokens(x)
            x = to_maps(tokens, height, width, self.form)
            stages.append((x, tokens))
        if self.form.last_maps == "products" and isinstance(self.fuse, MergedFuse):
            # Of tokens: a map that a convolution and a Linear read would be copied for one of them.
            return self.fuse.of_grids([tokens.reshape(to_nhwc(maps).shape) for maps, tokens in stages])
        fused: Tensor = self.fuse([maps for maps, _ in stages])
        return fused


def stage_form(stage: Stage, form: EngineForm, chosen: frozenset[str]) -> TokenStage:
    """A stage on tokens, centered if the form wants that and the rewrites that it builds on are chosen."""
    centered = form.centered_tokens and {"folded_norms", "folded_attention"} <= chosen
    if centered:
        exact.center_tokens(stage)
    blocks = [BlockForm(block, form, chosen, centered) for block in blocks_of(stage)]
    staged = TokenStage(stage.embed, blocks, stage.norm, form)
    if centered:
        norm = stage.embed.norm
        staged.embed_norm = nn.Sequential(RootMeanSquare(norm, affine=False), exact.centered_affine(norm))
        staged.norm = RootMeanSquare(stage.norm, affine=True)
    return staged


def blocks_of(stage: Stage) -> list[Block]:
    """The stage's transformer blocks."""
    return [block for block in stage.blocks if isinstance(block, Block)]


class BlockForm(nn.Module):
    """A transformer block on tokens (N, H W, C)."""

    def __init__(self, block: Block, form: EngineForm, chosen: frozenset[str], centered: bool) -> None:
        super().__init__()
        fold_norms = "folded_norms" in chosen
        folded = "folded_attention" in chosen
        # Without rewrite 3 the first norm keeps its affine map: three projections would each have to take it in.
        self.norm1: nn.Module = standard(block.norm1, centered) if fold_norms and folded else block.norm1
        self.attention: nn.Module = (
            FoldedAttention(block, form, fold_norms, centered) if folded else PlainAttention(block.attention, form)
        )
        self.norm2: nn.Module = standard(block.norm2, centered) if fold_norms else block.norm2
        self.mlp: Mlp = block.mlp
        self.form, self.activation = form, activation_of(form)
        if fold_norms:
            self.mlp.fc1 = exact.fold_norm_into_linear(block.norm2, block.mlp.fc1)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        mixed = self.attention(self.norm1(tokens), height, width)
        fused = self.form.fused_residuals
        tokens = (tokens.unsqueeze(1) + mixed).squeeze(1) if fused else tokens + mixed.squeeze(1)
        out: Tensor = tokens + self.mlp.fc2(self.activation(self.mlp.fc1(self.norm2(tokens))))
        return out


def standard(norm: nn.LayerNorm, centered: bool) -> nn.Module:
    """``norm`` without its affine map."""
    return RootMeanSquare(norm, affine=False) if centered else Standardise(norm)


def activation_of(form: EngineForm) -> Callable[[Tensor], Tensor]:
    """GELU as the engine wants it."""
    return inexact.gelu if form.gelu == "polynomial" else F.gelu


class FoldedAttention(nn.Module):
    """Rewrite 3, with the LayerNorms before it (rewrite 5) if ``fold_norms``.

    The scores are n . K y + t . y; the second stands as an additive mask (N, 1, 1, Nk). Keys, values and mask come out
    of one Linear: from three of them, OpenVINO 2026.4.1 builds a fused attention that returns wrong numbers as soon as
    a residual is added to its result.
    """

    def __init__(self, block: Block, form: EngineForm, fold_norms: bool, centered: bool) -> None:
        super().__init__()
        self.centered = centered
        attention, maps = block.attention, exact.fold_projections(block.attention)
        self.form = form
        self.reduce, self.reduce_norm = attention.reduce, attention.reduce_norm
        if fold_norms:
            maps = self._fold_norms(block.norm1, maps)
        self.project = exact.project_sources(maps, attention.k.weight.dtype)

    def _fold_norms(self, norm: nn.LayerNorm, maps: exact.AttentionMaps) -> exact.AttentionMaps:
        maps = exact.fold_query_norm(maps, norm)
        if self.reduce is None or not isinstance(self.reduce_norm, nn.LayerNorm):
            return exact.fold_source_norm(maps, norm)
        self.reduce = exact.fold_norm_into_conv(norm, self.reduce)
        maps = exact.fold_source_norm(maps, self.reduce_norm)
        self.reduce_norm = standard(self.reduce_norm, self.centered)  # type: ignore[assignment]
        return maps

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        source = reduced(tokens, height, width, self.reduce, self.reduce_norm, self.form)
        channels = int(tokens.shape[2])
        keys, values, term = torch.split(self.project(source), [channels, channels, 1], dim=-1)
        keys, mask = keys.transpose(-1, -2), term.transpose(-1, -2)  # (N, 1, C, Nk), (N, 1, 1, Nk)
        return attend(tokens.unsqueeze(1), keys, values, self.form, mask)


class PlainAttention(nn.Module):
    """The attention as the network has it, on tokens (N, H W, C)."""

    def __init__(self, attention: Attention, form: EngineForm) -> None:
        super().__init__()
        self.attention, self.form = attention, form

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        inner = self.attention
        source = reduced(tokens, height, width, inner.reduce, inner.reduce_norm, self.form)
        q = inner.q(tokens.unsqueeze(1)) * inner.scale
        weights = torch.softmax(q @ inner.k(source).transpose(-1, -2), dim=-1)
        out: Tensor = inner.proj(weights @ inner.v(source))
        return out


class MergedFuse(nn.Module):
    """Rewrite 2, GELU, and the second fuse Linear."""

    def __init__(self, model: MicroSegFormer, form: EngineForm) -> None:
        super().__init__()
        self.form = form
        self.fuse1 = SplitFusion(exact.merge_decoder(model.decoder))
        self.fuse2 = linear_as_conv(model.decoder.fuse2)
        self.activation = activation_of(form)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if self.form.last_maps == "pixels":
            activated = self.activation(self.fuse1.by_pixel(maps)).permute(0, 3, 1, 2)
        else:
            activated = self.activation(self.fuse1(maps))
        out: Tensor = self.fuse2(activated)
        return out

    def of_grids(self, grids: Sequence[Tensor]) -> Tensor:
        """The same of channels-last maps, (N, h, w, C) each."""
        activated = self.activation(self.fuse1.by_products(grids))
        out: Tensor = self.fuse2(activated.permute(0, 3, 1, 2))
        return out


class PlainFuse(nn.Module):
    """The decoder as the paper writes it."""

    def __init__(self, model: MicroSegFormer) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fused: Tensor = self.decoder([to_nhwc(each) for each in maps], as_written=True)
        return fused.permute(0, 3, 1, 2)


class Head(nn.Module):
    """Rewrite 4: LMSA and classifier as small matrices on the depthwise maps; (N, 128, h, w) to (N, 19, h, w)."""

    def __init__(self, model: MicroSegFormer, form: EngineForm) -> None:
        super().__init__()
        self.form = form
        lmsa, dtype = model.lmsa, model.classifier.weight.dtype
        self.classifier = model.classifier
        self.depthwise = nn.ModuleList()
        self.mixes = nn.ParameterList()
        self.shifts = nn.ParameterList()
        if isinstance(lmsa, (CompactLMSA, MultiscaleLMSA)):
            self.gate = lmsa.gate
            convs = [lmsa.depthwise] if isinstance(lmsa, CompactLMSA) else list(lmsa.depthwise)
            self.depthwise.extend(convs)
            for branch in exact.fold_lmsa(lmsa):
                self.mixes.append(nn.Parameter(branch.mix.to(dtype)))
                self.shifts.append(nn.Parameter(branch.shift.to(dtype)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.classifier.weight[:, :, 0, 0], self.classifier.bias
        assert bias is not None
        by_pixel = self.form.last_maps == "pixels"
        if self.form.last_maps == "maps":
            logits = self.classifier(x)
        elif by_pixel:
            logits = F.linear(pixels_of(x), weight, bias)
        else:
            logits = self._mixed(weight, x) + bias[:, None, None]
        maps = [depthwise(x) for depthwise in self.depthwise]
        for each, gate, mix, shift in zip(maps, self._gates(maps), self.mixes, self.shifts, strict=True):
            # Not (weight * gate) @ mix: mix is a Linear's weight above, and OpenVINO 2026.4.1 run by two threads then
            # takes the packed copy of the one product for the other, whose transpose it is.
            matrix = weight @ (gate[:, :, None] * mix)  # (N, 19, 128)
            constant = F.linear(gate * shift, weight)  # (N, 19)
            if by_pixel:
                logits = logits + (pixels_of(each) @ matrix.transpose(1, 2) + constant[:, None])
            else:
                logits = logits + (self._mixed(matrix, each) + constant[:, :, None, None])
        return maps_of(logits, x) if by_pixel else logits

    def _gates(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """The squeeze-and-excitation gate (N, 128) of each depthwise map."""
        if not maps:
            return ()
        means = [
            F.linear(self._mean(each), mix, shift)
            for each, mix, shift in zip(maps, self.mixes, self.shifts, strict=True)
        ]
        gates: Sequence[Tensor] = self.gate(torch.cat(means, dim=1)).chunk(len(maps), dim=1)
        return gates

    def _mean(self, maps: Tensor) -> Tensor:
        """Mean over the pixels, (N, C, h, w) to (N, C)."""
        if self.form.channels_last:  # OpenVINO's average pooling reads channels-last memory faster than its ReduceMean
            return F.avg_pool2d(maps, (1, int(maps.shape[3]))).mean(dim=(2, 3))
        if self.form.last_maps == "pixels":  # a product, which ONNX Runtime has in int8; a mean it has in float alone
            pixels = pixels_of(maps)
            return (torch.full((1, int(pixels.shape[1])), 1 / int(pixels.shape[1])) @ pixels).squeeze(1)
        return maps.mean(dim=(2, 3))

    def _mixed(self, matrix: Tensor, maps: Tensor) -> Tensor:
        """A matrix (19, 128), or (N, 19, 128), applied to each pixel of (N, 128, h, w).

        The result is planar, as the label map wants it. Of a channels-last map the product takes the transpose; for a
        planar view of it the engine would copy it first. In the form ``products`` the result is transposed instead: a
        constant matrix is then the right factor (:func:`fptk.models.deploy.form._one`).
        """
        if self.form.last_maps == "products":
            return maps_of(pixels_of(maps) @ matrix.transpose(-1, -2), maps)
        pixels = pixels_of(maps).transpose(1, 2) if self.form.last_maps == "planar" else maps.flatten(2)
        out: Tensor = matrix @ pixels
        return out.reshape(*out.shape[:2], *maps.shape[2:])


def pixels_of(maps: Tensor) -> Tensor:
    """(N, C, h, w) to (N, h w, C)."""
    return to_nhwc(maps).flatten(1, 2)


def maps_of(pixels: Tensor, like: Tensor) -> Tensor:
    """(N, h w, C) to (N, C, h, w), with the h and w of ``like``."""
    return to_nchw(pixels.reshape(pixels.shape[0], int(like.shape[2]), int(like.shape[3]), -1))


class PlainHead(nn.Module):
    """LMSA and classifier as the network has them."""

    def __init__(self, model: MicroSegFormer) -> None:
        super().__init__()
        self.lmsa = model.lmsa
        self.classifier = model.classifier

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees, (N, 128, h, w)."""
        if self.lmsa is None:
            return x
        out: Tensor = self.lmsa(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def reduced(
    tokens: Tensor, height: int, width: int, reduce: nn.Module | None, norm: nn.Module | None, form: EngineForm
) -> Tensor:
    """Tokens that keys and values are made of: (N, H W, C) to (N, 1, Nk, C)."""
    if reduce is not None and norm is not None:
        tokens = norm(to_tokens(reduce(to_maps(tokens, height, width, form)), form))
    return tokens.unsqueeze(1)
