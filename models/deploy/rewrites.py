"""The exact rewrites behind the deploy form, each with its algebra. All products are formed in float64.

Matrices act on column vectors: a Linear with weight W and bias b maps x to W x + b. n^ is a vector after LayerNorm's
standardisation and before its affine map n = g * n^ + h (g gamma, h beta, * element by element).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fptk.core.preprocess import PreprocessSpec
from fptk.models.lmsa import CompactLMSA, MultiscaleLMSA
from fptk.models.microsegformer import EMBEDDING, Attention, Block, Decoder, Stage

Array = npt.NDArray[np.float64]


def fold_batchnorm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution that does what ``conv`` followed by ``norm`` in evaluation mode does.

    norm(y) = a * y + d with a = g / sqrt(var + eps) and d = h - a * mean, all of shape (C_out), so the weight
    (C_out, C_in, k, k) becomes a * W along its first axis and the bias a * b + d. Holds for any padding.
    """
    scale, shift = batchnorm_affine(norm)
    return _conv_like(conv, conv.weight.double() * scale[:, None, None, None], scale * _bias(conv) + shift)


def fold_batchnorms(module: nn.Module) -> None:
    """Fold, in place, every Conv2d directly followed by a BatchNorm2d inside an ``nn.Sequential`` into one Conv2d; an
    Identity takes the normalisation's place. What computes in a way of its own (a subclass, a parametrised weight, a
    BatchNorm of the batch's own statistics) is left as it is."""
    for sequence in [each for each in module.modules() if isinstance(each, nn.Sequential)]:
        if type(sequence).forward is not nn.Sequential.forward:
            continue
        for index in range(len(sequence) - 1):
            first, second = sequence[index], sequence[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and _foldable(first, second):
                sequence[index], sequence[index + 1] = fold_batchnorm(first, second), nn.Identity()


def _foldable(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether both compute what their names say, from a weight and from running statistics of their own."""
    plain = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d
    return plain and "weight" in dict(conv.named_parameters(recurse=False)) and norm.running_mean is not None


def batchnorm_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift, float64 (C), that ``norm`` applies in evaluation mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics is no fixed affine map")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = norm.weight.detach().double() * scale
    shift = -scale * norm.running_mean.double()
    return scale, norm.bias.detach().double() + shift if norm.affine else shift


def merge_decoder(decoder: Decoder) -> list[nn.Conv2d]:
    """Rewrite 2: each stage's projection and its slice of the first fuse Linear as one 1x1 convolution C_i to 128.

    fuse1(concat_i up(P_i s_i + p_i)) = sum_i up(F_i P_i s_i) + (f + sum_i F_i p_i), with F_i the i-th 128 columns of
    fuse1's weight: upsampling is linear per channel and keeps constants. The first convolution carries the bias; no
    512-channel map is made.
    """
    slices = torch.split(decoder.fuse1.weight.detach().double(), EMBEDDING, dim=1)
    bias = decoder.fuse1.bias.detach().double()
    weights = []
    for part, project in zip(slices, decoder.project, strict=True):
        assert isinstance(project, nn.Linear)
        weights.append(part @ project.weight.detach().double())
        bias = bias + part @ project.bias.detach().double()
    dtype = decoder.fuse1.weight.dtype
    return [pointwise_conv(weight, bias if index == 0 else None, dtype) for index, weight in enumerate(weights)]


def split_fusion(conv: nn.Conv2d, widths: Sequence[int]) -> list[nn.Conv2d]:
    """Rewrite 2 without a linear map to merge with: C concat_i(x_i) + c = sum_i C_i x_i + c.

    Args:
        conv: 1x1, on a concatenation.
        widths: channels of each of its parts.

    Returns:
        One 1x1 convolution per part, the first with the bias. As upsampling is linear per channel and its weights sum
        to one, each may stand before it.
    """
    parts = torch.split(conv.weight.detach()[:, :, 0, 0], list(widths), dim=1)
    return [pointwise_conv(part, None if index else conv.bias, part.dtype) for index, part in enumerate(parts)]


def scale_queries(qkv: nn.Linear, scale: float) -> nn.Linear:
    """A Linear C to 3 C for query, key and value whose queries are multiplied by the attention's scale."""
    factor = torch.ones(qkv.out_features, dtype=torch.float64)
    factor[: qkv.out_features // 3] = scale
    weight, bias = qkv.weight.detach().double(), qkv.bias.detach().double()
    return dense(factor[:, None] * weight, factor * bias, qkv.weight.dtype)


def transposed_as_pointwise(transposed: nn.ConvTranspose2d) -> nn.Conv2d:
    """Rewrite 8: a transposed convolution whose kernel k is its stride writes every output pixel once.

    y[c, k a + i, k b + j] = sum_d W[d, c, i, j] x[d, a, b] + bias[c]: a 1x1 convolution to c k k + i k + j channels,
    in the order that ``nn.PixelShuffle(k)`` takes apart. Engines have int8 kernels for these two.

    Raises:
        ValueError: the kernel is not the stride, or there are groups or padding.
    """
    k = transposed.kernel_size[0]
    plain = nn.ConvTranspose2d(transposed.in_channels, transposed.out_channels, k, k)
    for name in ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups"):
        if getattr(transposed, name) != getattr(plain, name):
            raise ValueError(f"a transposed convolution with {name} {getattr(transposed, name)} is no 1x1 convolution")
    weight = transposed.weight.detach().permute(1, 2, 3, 0).flatten(0, 2)
    bias = None if transposed.bias is None else transposed.bias.detach().repeat_interleave(k * k)
    return pointwise_conv(weight, bias, weight.dtype)


@functools.lru_cache(maxsize=8)
def _pyramid_arrays(height: int, width: int, sides: tuple[int, ...]) -> tuple[Array, Array]:
    pooling = [np.kron(_pooling(height, side), _pooling(width, side)) for side in sides]
    interpolation = [np.kron(_interpolation(side, height), _interpolation(side, width)) for side in sides]
    return np.concatenate(pooling, axis=1), np.concatenate(interpolation, axis=0)


def pyramid_matrices(height: int, width: int, sides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rewrite 9: pyramid pooling and its upsampling as matrices, which engines take at any size.

    Args:
        height: of the map.
        width: of the map.
        sides: each level pools to side x side bins.

    Returns:
        float64 P (H W, bins) and U (bins, H W), the levels one after the other: for a row x of H W pixels, x P is
        ``adaptive_avg_pool2d`` and, for a row of bins b, b U is ``interpolate(mode="bilinear")`` to (H, W), summed over
        the levels. (The exporter writes bins of different sizes as 7 Gathers.)
    """
    pooling, interpolation = _pyramid_arrays(height, width, sides)
    return torch.tensor(pooling), torch.tensor(interpolation)


def _pooling(length: int, bins: int) -> Array:
    """(length, bins): bin i is the mean of pixels floor(i length / bins) to ceil((i + 1) length / bins)."""
    matrix = np.zeros((length, bins))
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        matrix[start:stop, i] = 1 / (stop - start)
    return matrix


def _interpolation(bins: int, length: int) -> Array:
    """(bins, length): linear interpolation with half-pixel centres, constant beyond the outermost bins."""
    position = np.clip((np.arange(length) + 0.5) * bins / length - 0.5, 0, bins - 1)
    weights: Array = np.maximum(0, 1 - np.abs(position[None] - np.arange(bins)[:, None]))
    return weights


@dataclass
class AttentionMaps:
    """Single-head attention without query and output projections: softmax_j(n . K y_j + t . y_j) (V y_j + b).

    n (C) is a query token, y_j (C) the j-th source token. Float64: keys K (C, C), term t (C), values V (C, C), bias
    b (C).
    """

    keys: Tensor
    term: Tensor
    values: Tensor
    bias: Tensor


def fold_projections(attention: Attention) -> AttentionMaps:
    """Rewrite 3: the query projection moves to the key side, the output projection into the values.

    s (Wq n + bq) . (Wk y + bk) = n . (s Wq^T Wk) y + (s bq^T Wk) y + what is the same for every y, which softmax
    does not see; Wp sum_j a_j (Wv y_j + bv) + bp = sum_j a_j (Wp Wv y_j + Wp bv + bp), since sum_j a_j = 1.
    The scale s is applied before the first product of the attention, to at most 1/64 as many tokens.
    """
    q, k, v, out = attention.q, attention.k, attention.v, attention.proj
    queries = attention.scale * q.weight.detach().double().T
    term = attention.scale * q.bias.detach().double()
    keys, values = k.weight.detach().double(), v.weight.detach().double()
    project = out.weight.detach().double()
    bias = project @ v.bias.detach().double() + out.bias.detach().double()
    return AttentionMaps(queries @ keys, term @ keys, project @ values, bias)


def fold_query_norm(maps: AttentionMaps, norm: nn.LayerNorm) -> AttentionMaps:
    """Rewrite 5, query side: (g * n^ + h) . K y + t . y = n^ . (diag(g) K) y + (t + K^T h) . y."""
    g, h = layernorm_affine(norm)
    return AttentionMaps(g[:, None] * maps.keys, maps.term + h @ maps.keys, maps.values, maps.bias)


def fold_source_norm(maps: AttentionMaps, norm: nn.LayerNorm) -> AttentionMaps:
    """Rewrite 5, key and value side: y = g * y^ + h makes K diag(g), t * g, V diag(g) and b + V h.

    What h adds to a score is the same for every key of a query (n . K h) or for all of them (t . h): softmax does
    not see the second; the first differs between queries, never between keys, and is not seen either.
    """
    g, h = layernorm_affine(norm)
    return AttentionMaps(maps.keys * g, maps.term * g, maps.values * g, maps.bias + maps.values @ h)


def fold_norm_into_conv(norm: nn.LayerNorm, conv: nn.Conv2d) -> nn.Conv2d:
    """Rewrite 5, spatial reduction: W (g * n^ + h) + b = (W diag(g)) n^ + (b + sum over taps of W h).

    Raises:
        ValueError: ``conv`` is padded; the padding is 0, not h, so that the sum differs at the border.
    """
    if any(side != 0 for side in conv.padding):
        raise ValueError("a LayerNorm's shift does not fold into a zero-padded convolution")
    g, h = layernorm_affine(norm)
    weight = conv.weight.detach().double()
    return _conv_like(conv, weight * g[None, :, None, None], _bias(conv) + torch.einsum("oihw,i->o", weight, h))


def fold_norm_into_linear(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    """Rewrite 5, MLP: W (g * n^ + h) + b = (W diag(g)) n^ + (b + W h)."""
    g, h = layernorm_affine(norm)
    weight = linear.weight.detach().double()
    return dense(weight * g, linear.bias.detach().double() + weight @ h, linear.weight.dtype)


def center_tokens(stage: Stage) -> None:
    """Rewrite 5, norms as root mean squares: what writes into the stage's tokens loses its mean over the channels.

    Between the embedding's norm and the stage's own, nothing but LayerNorms reads the tokens, and LayerNorm does not
    see what is the same for every channel. So P x may stand for x, with P = I - 1 1^T / C: a Linear writes it with P W
    and P b in the place of W and b. LayerNorm of P x, whose mean is zero, is P x / sqrt(mean((P x)^2) + eps). The
    convolutions before the embedding's norm and before the attention's source norm are centered likewise. In place;
    the embedding's norm itself writes P (g * n^ + h): :func:`centered_affine`.
    """
    center_outputs(stage.embed.conv)
    for block in stage.blocks:
        assert isinstance(block, Block)
        if block.attention.reduce is not None:
            center_outputs(block.attention.reduce)
        center_outputs(block.attention.proj)
        center_outputs(block.mlp.fc2)


def center_outputs(layer: nn.Conv2d | nn.Linear) -> None:
    """Take the mean over the output channels away from weight and bias, in place."""
    for name in ("weight", "bias"):
        if (parameter := getattr(layer, name)) is not None:
            value = parameter.detach().double()
            setattr(layer, name, _constant(value - value.mean(dim=0), parameter.dtype))


def centered_affine(norm: nn.LayerNorm) -> nn.Linear:
    """P (g * n^ + h) of n^, with P of :func:`center_tokens`."""
    g, h = layernorm_affine(norm)
    linear = dense(torch.diag(g), h, norm.weight.dtype)
    center_outputs(linear)
    return linear


def upsampling_matrix(length: int, enlarged: int) -> Tensor:
    """Linear interpolation with half-pixel centres as a matrix: float64 (enlarged, length)."""
    return torch.tensor(_interpolation(length, enlarged).T)


def project_sources(maps: AttentionMaps, dtype: torch.dtype) -> nn.Linear:
    """One Linear C to 2 C + 1 that maps a source token y to its key K y, its value V y + b and its term t . y."""
    weight = torch.cat([maps.keys, maps.values, maps.term[None]])
    zeros = torch.zeros_like(maps.bias)
    return dense(weight, torch.cat([zeros, maps.bias, zeros[:1]]), dtype)


def layernorm_affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """g and h, float64 (C)."""
    return norm.weight.detach().double(), norm.bias.detach().double()


@dataclass
class LmsaMaps:
    """A branch f = A p + d of an LMSA on its depthwise map p: A (128, 128), d (128), float64."""

    mix: Tensor
    shift: Tensor


def fold_lmsa(lmsa: CompactLMSA | MultiscaleLMSA) -> list[LmsaMaps]:
    """Rewrite 4, the part that does not depend on the image: the affine map of each branch after its depthwise conv.

    compact: BN(PW p) = (diag(a) PW) p + d, a and d of :func:`batchnorm_affine`; multiscale: PW_k p_k, d = 0. As f is
    affine in p, mean(f) = A mean(p) + d: the gate z needs no map f. With classifier W, c the logits are
    W (x + sum_k z_k * f_k) + c = W x + sum_k (W diag(z_k) A_k) p_k + (c + sum_k W (z_k * d_k)): per image one
    (19, 128) matrix on each depthwise map. Neither f nor the gated 128-channel map is ever made.
    """
    if isinstance(lmsa, CompactLMSA):
        scale, shift = batchnorm_affine(lmsa.norm)
        return [LmsaMaps(scale[:, None] * lmsa.pointwise.weight.detach().double()[:, :, 0, 0], shift)]
    mixes = [pw.weight.detach().double()[:, :, 0, 0] for pw in lmsa.pointwise if isinstance(pw, nn.Conv2d)]
    return [LmsaMaps(mix, mix.new_zeros(len(mix))) for mix in mixes]


def fold_normalization(conv: nn.Conv2d, spec: PreprocessSpec) -> tuple[nn.Conv2d, Tensor]:
    """Rewrite 5, pixels: W ((x / 255 - m) / s) = (W / (255 s)) (x - 255 m), the scale folded into the first conv.

    The mean cannot follow: the convolution pads with 0, which is the mean of normalised pixels. Subtracting 255 m
    first makes the padding the mean again.

    Returns:
        The convolution, and 255 m as float (1, 3, 1, 1) to subtract from pixels 0-255.
    """
    std = torch.tensor(spec.std, dtype=torch.float64)[None, :, None, None]
    mean = torch.tensor(spec.mean, dtype=torch.float64)[None, :, None, None]
    scaled = _conv_like(conv, conv.weight.detach().double() / (255 * std), _bias(conv))
    return scaled, (255 * mean).to(conv.weight.dtype)


def dense(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Linear:
    """An ``nn.Linear`` of the given weight (out, in) and bias (out)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
    linear.weight = _constant(weight, dtype)
    if bias is not None:
        linear.bias = _constant(bias, dtype)
    return linear


def pointwise_conv(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Conv2d:
    """A 1x1 ``nn.Conv2d`` of the given weight (out, in) and bias (out)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, dtype=dtype)
    conv.weight = _constant(weight[:, :, None, None], dtype)
    if bias is not None:
        conv.bias = _constant(bias, dtype)
    return conv


def conv_as_linear(conv: nn.Conv2d) -> nn.Linear:
    """The Linear that does to (..., C) what a 1x1 ``conv`` does to (N, C, H, W)."""
    return dense(conv.weight.detach()[:, :, 0, 0], conv.bias, conv.weight.dtype)


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    like = copy.deepcopy(conv)
    like.weight, like.bias = _constant(weight, conv.weight.dtype), _constant(bias, conv.weight.dtype)
    return like


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64)
    return conv.bias.detach().double()


def _constant(value: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(value.detach().to(dtype).contiguous(), requires_grad=False)
