"""What every deploy form has in common: its engine's wishes, its way from pixels and to labels, its token layouts.

Pieces are put together in the layout that the engines run fastest: tokens for Linear and LayerNorm, (N, C, H, W) for
convolutions and the decoder, 4-D tensors in the attention: the change of shape before the residual sum, or between the
sum and its readers, keeps OpenVINO 2026.4.1 from a crash
(:func:`fptk.calibration.openvino_forms.crashing_attentions`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.preprocess import PreprocessSpec, check_size
from fptk.models.blocks import BilinearUpsample, PatchEmbed, resize, to_nhwc
from fptk.models.deploy import rewrites as exact
from fptk.models.deploy.label_map import LABEL_MAPS, argmax, labels_of_shuffled, upsample_pixels
from fptk.models.engine_form import EngineForm
from fptk.models.network import FaceParsingNetwork


class DeployForm(nn.Module):
    """A network rewritten; takes and returns what the network does. Built by :func:`fptk.models.deploy.to_deploy`.

    A subclass overrides :meth:`coarse`.

    Args:
        form: what the engine wants.
        chosen: names of the rewrites to apply; those that do not apply here are passed over.
        upsample: from :meth:`coarse` to the size of the images.
    """

    applies: ClassVar[tuple[str, ...]] = ()
    """Names of the rewrites that change this network, in the order of :data:`fptk.models.deploy.REWRITES`."""

    def __init__(self, form: EngineForm, chosen: frozenset[str], upsample: nn.Module) -> None:
        super().__init__()
        self.form = form
        self.rewrites = chosen.intersection(self.applies)
        self.upsample = upsample

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), sides multiples of 32, to logits float (N, 19, H, W)."""
        check_size(int(images.shape[2]), int(images.shape[3]))
        logits: Tensor = self.upsample(self.coarse(images))
        return logits

    def coarse(self, images: Tensor) -> Tensor:
        """Logits before ``upsample``, float (N, C, h, w), of images whose size was checked."""
        raise TypeError(f"{type(self).__name__} does not define coarse()")

    def labels(self, images: Tensor) -> Tensor:
        """Integer labels (N, H, W) of normalised float (N, 3, H, W), the lowest label of equal logits."""
        if "label_map" not in self.rewrites:
            logits: Tensor = self(images)
            return logits.argmax(dim=1)
        coarse = self.coarse(images)
        # The forms of the label map know this very upsampling, by an even factor.
        if type(self.upsample) is BilinearUpsample and self.upsample.scale % 2 == 0:
            return LABEL_MAPS[self.form.label_map](coarse, self.upsample.scale)
        if isinstance(self.upsample, nn.PixelShuffle):
            return labels_of_shuffled(coarse, self.upsample.upscale_factor, self.form.label_map)
        return argmax(self.upsample(coarse), self.form.label_map)

    def on_pixels(self, spec: PreprocessSpec) -> tuple[Self, Tensor]:
        """A copy that takes pixels 0-255 from which the returned float (1, 3, 1, 1) was subtracted.

        For a form with ``folded_normalisation`` among ``applies``: one convolution reads the image and nothing else
        does, and no other convolution takes three channels.
        """
        form = copy.deepcopy(self)
        means: list[Tensor] = []

        def fold(module: nn.Module) -> nn.Module | None:
            if not isinstance(module, nn.Conv2d) or module.in_channels != 3:
                return None
            conv, mean = exact.fold_normalization(module, spec)
            means.append(mean)
            return conv

        replace_modules(form, fold)
        (mean,) = means
        return form, mean


class NetworkForm(DeployForm):
    """A network whose modules were replaced by equivalent ones; what stands around them is the network's own code.

    The logits of ``model`` are ``upsample`` of ``coarse``, and its Sequentials are called as a whole.
    """

    def __init__(self, model: FaceParsingNetwork, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__(form, chosen, model.upsample)
        if "folded_batchnorms" in self.rewrites:
            exact.fold_batchnorms(model)
        replace_modules(model, self.rewritten)
        self.network = model
        self.last: nn.Module = nn.Identity()
        if isinstance(model.upsample, ShuffledConv):  # the shuffle can wait until after the argmax
            self.last, self.upsample = model.upsample.conv, model.upsample.shuffle
        model.upsample = nn.Identity()

    def rewritten(self, module: nn.Module) -> nn.Module | None:
        """What takes the place of ``module``; ``None`` leaves it and looks inside."""
        if isinstance(module, nn.ConvTranspose2d) and "shuffled_upsampling" in self.rewrites:
            return ShuffledConv(module)
        return None

    def coarse(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.network.coarse(images))
        return logits


class ShuffledConv(nn.Module):
    """Rewrite 8: a transposed convolution whose kernel is its stride, (N, C_in, h, w) to (N, C, k h, k w)."""

    def __init__(self, transposed: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = exact.transposed_as_pointwise(transposed)
        self.shuffle = nn.PixelShuffle(transposed.kernel_size[0])

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.shuffle(self.conv(x))
        return maps


def replace_modules(module: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put ``replacement(child)`` in the place of every module below ``module`` for which it is not ``None``."""
    for name, child in module.named_children():
        new = replacement(child)
        if new is None:
            replace_modules(child, replacement)
        else:
            setattr(module, name, new)


class TokenStage(nn.Module):
    """A transformer stage: (N, C_in, H, W) to (N, C, H / stride, W / stride).

    Args:
        embed: patch embedding.
        blocks: each takes tokens, height and width and returns tokens.
        norm: LayerNorm over what the stage hands on.
        form: what the engine wants.
    """

    def __init__(self, embed: PatchEmbed, blocks: Iterable[nn.Module], norm: nn.LayerNorm, form: EngineForm) -> None:
        super().__init__()
        self.form = form
        self.embed = embed.conv
        self.embed_norm: nn.Module = embed.norm
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = norm

    def forward(self, x: Tensor) -> Tensor:
        return to_maps(*self.tokens(x), self.form)

    def tokens(self, x: Tensor) -> tuple[Tensor, int, int]:
        """The same as tokens (N, H W, C), or (N, 1, H W, C), with height and width."""
        x = self.embed(x)
        height, width = int(x.shape[2]), int(x.shape[3])
        tokens = self.embed_norm(to_tokens(x, self.form))
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return self.norm(tokens.unsqueeze(1) if self.form.norm_apart else tokens), height, width


class SplitFusion(nn.Module):
    """Rewrite 2: 1x1 convolutions on each map at its own resolution, upsampled to the first one's and summed.

    The first one's comes last: OpenVINO then adds the sum of the others, and applies the GELU that follows, inside that
    convolution.
    """

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        coarse = [resize(conv(each), maps[0].shape[2:]) for each, conv in zip(maps[1:], self.convs[1:], strict=True)]
        fused: Tensor = sum(coarse[1:], coarse[0]) + self.convs[0](maps[0])
        return fused

    def by_pixel(self, maps: Sequence[Tensor]) -> Tensor:
        """The same on channels-last maps: float (N, h, w, C_out) of (N, C, H, W) each.

        The largest is a Linear: ONNX Runtime hands its product on as float, and rounds that of a convolution to 8 bits.
        As Linears the others gave nothing, and took 7 MB more.
        """
        largest = _pointwise(self.convs[0], to_nhwc(maps[0]))
        coarse = [to_nhwc(conv(each)) for each, conv in zip(maps[1:], self.convs[1:], strict=True)]
        large = [upsample_pixels(each, int(largest.shape[1]) // int(each.shape[1])) for each in coarse]
        fused: Tensor = sum(large[1:], large[0]) + largest
        return fused

    def by_products(self, grids: Sequence[Tensor]) -> Tensor:
        """The same by interpolation matrices: float (N, H, W, C_out) of channels-last (N, h, w, C) each.

        Columns are enlarged first, each map by a product of its own. The results stand one under the other, and one
        product enlarges and adds the rows of all of them. So one enlarged map is made instead of one for each.
        """
        height, width = int(grids[0].shape[1]), int(grids[0].shape[2])
        one = _one(grids[0])
        enlarged, matrices = [], []
        for each, conv in zip(grids[1:], self.convs[1:], strict=True):
            h, w = int(each.shape[1]), int(each.shape[2])
            columns, rows = (exact.upsampling_matrix(*sides).to(each.dtype) for sides in ((w, width), (h, height)))
            wide = (columns * one) @ _pointwise(conv, each)
            enlarged.append(wide.flatten(2))  # (N, h, W C_out)
            matrices.append(rows)
        coarse = (torch.cat(matrices, dim=1) * one) @ torch.cat(enlarged, dim=1)  # (N, H, W C_out)
        largest = _pointwise(self.convs[0], grids[0])
        fused: Tensor = coarse.reshape(largest.shape) + largest
        return fused


def _pointwise(conv: nn.Module, grid: Tensor) -> Tensor:
    """What a 1x1 convolution does, on (N, h, w, C)."""
    assert isinstance(conv, nn.Conv2d)
    return F.linear(grid, conv.weight[:, :, 0, 0], conv.bias)


def _one(grid: Tensor) -> Tensor:
    """1 as a tensor (1, 1) that an engine cannot know before it runs; of any (N, h, w, C).

    OpenVINO 2026.4.1 computes a product in float32 if its left factor is a constant, whatever precision it was told.
    """
    return (grid[:1, 0, 0, :1] > -torch.inf).to(grid.dtype)


class Standardise(nn.Module):
    """LayerNorm over the last axis without its affine map."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape = norm.normalized_shape
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, eps=self.eps)


class RootMeanSquare(nn.Module):
    """LayerNorm of what has a mean of zero over the last axis: x / sqrt(mean(x^2) + eps) * gain + shift.

    OpenVINO makes one node of all but the shift. It wants a gain, also one of ones, and this order.
    """

    def __init__(self, norm: nn.LayerNorm, affine: bool) -> None:
        super().__init__()
        self.eps = norm.eps
        self.gain = nn.Parameter(norm.weight.detach() if affine else torch.ones_like(norm.weight))
        self.shift = nn.Parameter(norm.bias.detach()) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.reciprocal(torch.sqrt(x.pow(2).mean(dim=-1, keepdim=True) + self.eps)) * self.gain
        return normed if self.shift is None else normed + self.shift


def attend(queries: Tensor, keys: Tensor, values: Tensor, form: EngineForm, mask: Tensor | None = None) -> Tensor:
    """softmax(queries keys + mask) values, in the tiles that the engine wants or its memory needs.

    Args:
        queries: float (N, heads, L, D), already scaled.
        keys: float (N, heads, D, Nk).
        values: float (N, heads, Nk, E).
        form: what the engine wants.
        mask: float (N, 1, 1, Nk), added to the scores.

    Returns:
        float (N, heads, L, E).
    """
    heads, length, count = int(queries.shape[1]), int(queries.shape[2]), int(keys.shape[3])
    tile = length
    if form.query_tile and length > 4 * form.query_tile:  # fewer tiles are not worth the cuts
        tile = form.query_tile
    tile = min(tile, max(1, form.max_scores // (heads * count)))
    mixed = []
    for part in torch.split(queries, tile, dim=2) if tile < length else (queries,):
        scores = part @ keys
        mixed.append(torch.softmax(scores if mask is None else scores + mask, dim=-1) @ values)
    return torch.cat(mixed, dim=2) if tile < length else mixed[0]


def to_tokens(maps: Tensor, form: EngineForm) -> Tensor:
    """(N, C, H, W) to (N, H W, C)."""
    return to_nhwc(maps).flatten(1, 2) if form.pixel_views else maps.flatten(2).transpose(1, 2)


def to_maps(tokens: Tensor, height: int, width: int, form: EngineForm) -> Tensor:
    """(N, H W, C), or (N, 1, H W, C), to (N, C, H, W)."""
    N, C = tokens.shape[0], tokens.shape[-1]
    if form.pixel_views:
        return tokens.reshape(N, height, width, C).permute(0, 3, 1, 2)
    return tokens.transpose(-1, -2).reshape(N, C, height, width)


def linear_as_conv(linear: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that does to (N, C, H, W) what ``linear`` does to (N, H, W, C)."""
    return exact.pointwise_conv(linear.weight, linear.bias, linear.weight.dtype)
