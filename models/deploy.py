"""The deploy form: a network rewritten to compute the same function with far less work.

:func:`to_deploy` chooses the rewrites of :mod:`fptk.models.rewrites` and puts the pieces together in the layout that
the engines run fastest: tokens (N, L, C) for Linear and LayerNorm, (N, C, H, W) for convolutions and the decoder,
4-D tensors in the attention (3-D ones with a mask crash OpenVINO 2026.4.1 when it compiles them).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.errors import InputError
from fptk.models import rewrites as exact
from fptk.models.label_map import upsample
from fptk.models.lmsa import CompactLMSA, MultiscaleLMSA
from fptk.models.microsegformer import Attention, Block, MicroSegFormer, Mlp, Stage, to_nhwc
from fptk.models.network import FaceParsingNetwork
from fptk.preprocess import PreprocessSpec, check_size

REWRITES: dict[str, str] = {
    "classifier_first": "1: classify at stride 4, upsample 19 channels instead of 128",
    "merged_decoder": "2: one C_i to 128 map per stage at its own resolution; no 512-channel map",
    "folded_attention": "3: query and output projections moved to the short key side",
    "collapsed_lmsa": "4: pointwise, gate, BatchNorm and classifier as one 19x128 matrix per image",
    "folded_norms": "5: LayerNorm's affine map folded into what follows",
    "folded_normalisation": "5: division by 255 and by the standard deviation folded into the first convolution",
    "label_map": "6: upsampling and argmax in the form that the engine runs fastest",
}
"""Name of each rewrite and what it does; ``to_deploy(rewrites=...)`` takes any of them."""

REQUIRES = {"collapsed_lmsa": "classifier_first", "label_map": "classifier_first"}
"""Rewrites that only hold after another one."""


@dataclass(frozen=True)
class EngineForm:
    """How one engine wants the same graph.

    Attributes:
        label_map: key of :data:`fptk.models.label_map.LABEL_MAPS`.
        query_tile: queries that attend in one step; ``None`` for all. The scores of a tile stay in the
            processor's cache where the engine does not fuse the attention itself.
        norm_apart: put a change of shape between the last sum of a stage and its LayerNorm. ONNX Runtime fuses the
            two into a node that takes three times as long as they do.
    """

    label_map: str
    query_tile: int | None = None
    norm_apart: bool = False


ENGINES: dict[str, EngineForm] = {
    "onnxruntime": EngineForm(label_map="mixed_cells", query_tile=1024, norm_apart=True),
    "openvino": EngineForm(label_map="phases"),
    "tensorrt": EngineForm(label_map="plain"),
}
"""Engines with a form of their own; the forms compute the same function."""

DEFAULT_ENGINE = "onnxruntime"


def to_deploy(
    model: FaceParsingNetwork, *, engine: str = DEFAULT_ENGINE, rewrites: Collection[str] | None = None
) -> nn.Module:
    """A network that computes the logits of ``model`` in evaluation mode with less work; ``model`` is left alone.

    Args:
        model: of the registry. A network without a form of its own gets the rewrites that hold for any, see
            :class:`FoldedForm`.
        engine: key of :data:`ENGINES`.
        rewrites: names out of :data:`REWRITES`; ``None`` applies all of them.

    Returns:
        Takes normalised float (N, 3, H, W), returns logits float (N, 19, H, W). A :class:`Deployed`, which
        :class:`fptk.models.serving.Serving` knows how to feed with pixels and to read labels from.

    Raises:
        InputError: unknown engine or rewrite, or a rewrite without the one it needs.
    """
    chosen = frozenset(REWRITES if rewrites is None else rewrites)
    if engine not in ENGINES:
        raise InputError(f"unknown engine '{engine}'; choose one of: {', '.join(ENGINES)}")
    for name in sorted(chosen):
        if name not in REWRITES:
            raise InputError(f"unknown rewrite '{name}'; choose from: {', '.join(REWRITES)}")
        if name in REQUIRES and REQUIRES[name] not in chosen:
            raise InputError(f"rewrite '{name}' needs rewrite '{REQUIRES[name]}'")
    with torch.no_grad():
        if isinstance(model, MicroSegFormer):
            form: nn.Module = DeployForm(copy.deepcopy(model).eval(), ENGINES[engine], chosen)
        else:
            form = FoldedForm(model, ENGINES[engine], chosen)
    return form.eval().requires_grad_(False)


class Deployed(nn.Module):
    """What :func:`to_deploy` returns: normalised float (N, 3, H, W) to logits float (N, 19, H, W)."""

    def __init__(self, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__()
        self.form = form
        self.rewrites = chosen

    @property
    def label_map(self) -> str | None:
        """Key of :data:`fptk.models.label_map.LABEL_MAPS` that turns :meth:`coarse` into labels, if it applies."""
        return self.form.label_map if "label_map" in self.rewrites else None

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 4, float (N, 19, H / 4, W / 4), of which the logits are the bilinear upsampling."""
        raise TypeError(f"{type(self).__name__} has no logits at stride 4")

    def on_pixels(self, spec: PreprocessSpec) -> tuple[Self, Tensor]:
        """A copy that takes pixels 0-255 from which the returned float (1, 3, 1, 1) was subtracted."""
        form = copy.deepcopy(self)
        name, first = next((name, each) for name, each in form.named_modules() if isinstance(each, nn.Conv2d))
        folded, mean = exact.fold_normalisation(first, spec)
        form.set_submodule(name, folded)
        return form, mean


class FoldedForm(Deployed):
    """Any network of the registry with the rewrites that do not depend on its structure.

    BatchNorms are folded into their convolutions, and the normalisation of pixels into the first one. A network that
    has an ``efficient`` order of operations computes in it; one that upsamples its logits from stride 4 (``coarse``)
    gets the engine's label map.
    """

    def __init__(self, model: FaceParsingNetwork, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__(form, chosen)
        self.network = exact.fold_batchnorms(model)
        if hasattr(self.network, "efficient"):
            setattr(self.network, "efficient", "classifier_first" in chosen)  # noqa: B010 - not every network has it

    @property
    def label_map(self) -> str | None:
        upsamples_last = hasattr(self.network, "coarse") and getattr(self.network, "upsample", None) is None
        return super().label_map if upsamples_last else None

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def coarse(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.coarse(images)  # type: ignore[operator]
        return logits


class DeployForm(Deployed):
    """MicroSegFormer rewritten. Built by :func:`to_deploy`; takes and returns what MicroSegFormer does."""

    def __init__(self, model: MicroSegFormer, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__(form, chosen)
        self.stages = nn.ModuleList(
            StageForm(stage, form, chosen) for stage in model.stages if isinstance(stage, Stage)
        )
        self.fuse: nn.Module = MergedFuse(model) if "merged_decoder" in chosen else PlainFuse(model)
        self.head: nn.Module = Head(model) if "collapsed_lmsa" in chosen else PlainHead(model)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), sides multiples of 32, to logits float (N, 19, H, W)."""
        check_size(int(images.shape[2]), int(images.shape[3]))
        if "classifier_first" in self.rewrites:
            return upsample(self.coarse(images))
        assert isinstance(self.head, PlainHead)
        logits: Tensor = self.head.classifier(upsample(self.head.features(self.fused(images))))
        return logits

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 4, float (N, 19, H / 4, W / 4), of float (N, 3, H, W)."""
        logits: Tensor = self.head(self.fused(images))
        return logits

    def fused(self, images: Tensor) -> Tensor:
        """The decoder's map, float (N, 128, H / 4, W / 4)."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        fused: Tensor = self.fuse(maps)
        return fused


class StageForm(nn.Module):
    """One stage: (N, C_in, H, W) to (N, C, H / stride, W / stride)."""

    def __init__(self, stage: Stage, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__()
        self.norm_apart = form.norm_apart
        self.embed = stage.embed.conv
        self.embed_norm = stage.embed.norm
        self.blocks = nn.ModuleList(
            BlockForm(block, form, chosen) for block in stage.blocks if isinstance(block, Block)
        )
        self.norm = stage.norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        height, width = int(x.shape[2]), int(x.shape[3])
        tokens = self.embed_norm(to_tokens(x))
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return to_maps(self.norm(tokens.unsqueeze(1) if self.norm_apart else tokens), height, width)


class BlockForm(nn.Module):
    """A transformer block on tokens (N, H W, C)."""

    def __init__(self, block: Block, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__()
        fold_norms = "folded_norms" in chosen
        folded = "folded_attention" in chosen
        # Without rewrite 3 the first norm keeps its affine map: three projections would each have to take it in.
        self.norm1: nn.Module = Standardise(block.norm1) if fold_norms and folded else block.norm1
        self.attention: nn.Module = (
            FoldedAttention(block, form, fold_norms) if folded else PlainAttention(block.attention)
        )
        self.norm2: nn.Module = Standardise(block.norm2) if fold_norms else block.norm2
        self.mlp: Mlp = block.mlp
        if fold_norms:
            self.mlp.fc1 = exact.fold_norm_into_linear(block.norm2, block.mlp.fc1)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens), height, width)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class Standardise(nn.Module):
    """LayerNorm over the last axis without its affine map."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape = norm.normalized_shape
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, eps=self.eps)


class FoldedAttention(nn.Module):
    """Rewrite 3, with the LayerNorms before it (rewrite 5) if ``fold_norms``.

    The scores are n . K y + t . y; the second stands as an additive mask (N, 1, 1, Nk). Keys, values and mask come out
    of one Linear: from three of them, OpenVINO 2026.4.1 builds a fused attention that returns wrong numbers as soon as
    a residual is added to its result.
    """

    def __init__(self, block: Block, form: EngineForm, fold_norms: bool) -> None:
        super().__init__()
        attention, maps = block.attention, exact.fold_projections(block.attention)
        self.tile = form.query_tile
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
        self.reduce_norm = Standardise(self.reduce_norm)  # type: ignore[assignment]
        return maps

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        source = reduced(tokens, height, width, self.reduce, self.reduce_norm)
        channels = int(tokens.shape[2])
        keys, values, term = torch.split(self.project(source), [channels, channels, 1], dim=-1)
        keys, mask = keys.transpose(-1, -2), term.transpose(-1, -2)  # (N, 1, C, Nk), (N, 1, 1, Nk)
        queries = tokens.unsqueeze(1)
        length = int(tokens.shape[1])
        tiled = self.tile is not None and length > 4 * self.tile
        parts = torch.split(queries, self.tile or length, dim=2) if tiled else (queries,)
        mixed = [torch.softmax(part @ keys + mask, dim=-1) @ values for part in parts]
        return (torch.cat(mixed, dim=2) if tiled else mixed[0]).squeeze(1)


class PlainAttention(nn.Module):
    """The attention as the network has it, on tokens (N, H W, C)."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        inner = self.attention
        source = reduced(tokens, height, width, inner.reduce, inner.reduce_norm)
        q = inner.q(tokens.unsqueeze(1)) * inner.scale
        weights = torch.softmax(q @ inner.k(source).transpose(-1, -2), dim=-1)
        out: Tensor = inner.proj((weights @ inner.v(source)).squeeze(1))
        return out


class MergedFuse(nn.Module):
    """Rewrite 2: 1x1 convolutions at stage resolution, upsampled and summed, GELU, the second fuse Linear."""

    def __init__(self, model: MicroSegFormer) -> None:
        super().__init__()
        self.project = nn.ModuleList(exact.merge_decoder(model.decoder))
        self.fuse2 = linear_as_conv(model.decoder.fuse2)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = (int(maps[0].shape[2]), int(maps[0].shape[3]))
        fused = self.project[0](maps[0])
        for each, project in zip(maps[1:], self.project[1:], strict=True):
            fused = fused + F.interpolate(project(each), size=size, mode="bilinear", align_corners=False)
        out: Tensor = self.fuse2(F.gelu(fused))
        return out


class PlainFuse(nn.Module):
    """The decoder as the paper writes it."""

    def __init__(self, model: MicroSegFormer) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fused: Tensor = self.decoder([to_nhwc(each) for each in maps], efficient=False)
        return fused.permute(0, 3, 1, 2)


class Head(nn.Module):
    """Rewrite 4: LMSA and classifier as small matrices on the depthwise maps; (N, 128, h, w) to (N, 19, h, w)."""

    def __init__(self, model: MicroSegFormer) -> None:
        super().__init__()
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
        logits: Tensor = self.classifier(x)
        if not len(self.depthwise):
            return logits
        maps = [depthwise(x) for depthwise in self.depthwise]
        means = [
            F.linear(each.mean(dim=(2, 3)), mix, shift)
            for each, mix, shift in zip(maps, self.mixes, self.shifts, strict=True)
        ]
        gates = self.gate(torch.cat(means, dim=1)).chunk(len(maps), dim=1)
        weight = self.classifier.weight[:, :, 0, 0]
        for each, gate, mix, shift in zip(maps, gates, self.mixes, self.shifts, strict=True):
            # Not (weight * gate) @ mix: mix is a Linear's weight above, and OpenVINO 2026.4.1 run by two threads then
            # takes the packed copy of the one product for the other, whose transpose it is.
            matrix = weight @ (gate[:, :, None] * mix)  # (N, 19, 128)
            mixed = matrix @ each.flatten(2) + F.linear(gate * shift, weight)[:, :, None]
            logits = logits + mixed.reshape(logits.shape)
        return logits


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


def reduced(tokens: Tensor, height: int, width: int, reduce: nn.Module | None, norm: nn.Module | None) -> Tensor:
    """Tokens that keys and values are made of: (N, H W, C) to (N, 1, Nk, C)."""
    if reduce is not None and norm is not None:
        tokens = norm(to_tokens(reduce(to_maps(tokens, height, width))))
    return tokens.unsqueeze(1)


def to_tokens(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W, C)."""
    return maps.flatten(2).transpose(1, 2)


def to_maps(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H W, C), or (N, 1, H W, C), to (N, C, H, W)."""
    return tokens.transpose(-1, -2).reshape(tokens.shape[0], tokens.shape[-1], height, width)


def linear_as_conv(linear: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that does to (N, C, H, W) what ``linear`` does to (N, H, W, C)."""
    return exact.pointwise_conv(linear.weight, linear.bias, linear.weight.dtype)
