"""From coarse logits to the label map: upsampling, then argmax, in the form an engine runs best.

All bilinear forms give the same labels as ``interpolate(logits, scale_factor=scale, mode="bilinear").argmax(1)``, the
lowest class where logits are equal; they differ in how the engine walks through the memory. (Interpolation weights are
multiples of 1 / (2 scale) and applied to columns first, then rows: a sum may round differently in its last bit, which
can turn a label only where two classes are equal to within that bit.) The scale is even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fptk.models.blocks import resize

SCALE = 4
"""Stride of MicroSegFormer's and SegFormer's logits."""


def plain(coarse: Tensor, scale: int = SCALE) -> Tensor:
    """Upsample, then argmax over the channel axis, as it is usually written.

    float (N, C, h, w) to int64 (N, scale h, scale w).
    """
    return upsample(coarse, scale).argmax(dim=1)


def channels_last(coarse: Tensor, scale: int = SCALE) -> Tensor:
    """Upsample a channels-last map and take the argmax over its innermost axis, contiguous memory."""
    return upsample_pixels(coarse.permute(0, 2, 3, 1).contiguous(), scale).argmax(dim=-1)


def phases(coarse: Tensor, scale: int = SCALE) -> Tensor:
    """Compute the scale x scale phases of the upsampled map as separate small images and compare classes one by one.

    Output pixels (scale i + p, scale j + q) of one phase (p, q) are the same mixture of four shifted copies of the
    input. Columns are mixed first, all phases of a row side by side, by one product with weights of which a third are
    zero: that costs less than putting mixtures of two next to each other. Rows are mixed as they are compared: the
    rows from which a class's image starts are views of its memory, so that OpenVINO, whose ArgMax is a sort, compiles
    mixtures and comparisons to a few passes of vector code that write nothing but the best logit and its label.
    """
    N, h, w = coarse.shape[0], *coarse.shape[2:]
    padded = F.pad(coarse, (1, 1, 1, 1), mode="replicate")
    by_phase = [_neighbour_weights(p, scale) for p in range(scale)]
    by_neighbour = torch.tensor(by_phase, dtype=coarse.dtype).T.unsqueeze(2)  # (3, scale, 1)
    left, middle, right = (
        padded.narrow(3, first, w).unsqueeze(3) * weights for first, weights in enumerate(by_neighbour)
    )
    columns = left + middle + right  # (N, C, h + 2, scale, w)
    shifted = [[_rows(each, first, h) for first in range(3)] for each in columns.unbind(1)]  # C of 3 (N, h, scale, w)
    labels = [_lowest_argmax([_mixture(each, weights) for each in shifted]) for weights in by_phase]
    return torch.stack(labels, dim=2).transpose(3, 4).reshape(N, h * scale, w * scale)


def _neighbour_weights(p: int, scale: int) -> tuple[float, float, float]:
    """What inputs i - 1, i and i + 1 weigh in output pixel scale i + p; one of the outer two weighs nothing."""
    position = (p + 0.5) / scale - 0.5
    return max(-position, 0.0), 1 - abs(position), max(position, 0.0)


def _mixture(neighbours: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of those that weigh anything."""
    first, second = (each * weight for each, weight in zip(neighbours, weights, strict=True) if weight)
    return first + second


def _rows(maps: Tensor, first: int, count: int) -> Tensor:
    """Rows (dimension 1) as a part of a Split, which OpenVINO makes without a copy; a Slice it copies."""
    parts = [first, count, int(maps.shape[1]) - first - count]
    return torch.split(maps, [part for part in parts if part], dim=1)[1 if first else 0]


def mixed_cells(coarse: Tensor, scale: int = SCALE) -> Tensor:
    """Interpolate only where the label can change: between neighbours whose own labels differ.

    An output pixel's logits are a convex combination of four neighbours' logits. A class that is the largest at all
    four is the largest in between, so that the pixels of such a cell have its label. On photographs of faces that
    leaves about a tenth of the cells; the time grows with their number, and is that of the other forms where all are
    mixed.
    """
    N, C, h, w = coarse.shape
    logits = coarse.permute(0, 2, 3, 1).reshape(N * h * w, C)
    labels = logits.argmax(dim=-1).to(torch.uint8).reshape(N, h, w)
    first, *others = (corner.flatten() for corner in _corner_labels(labels))  # of (N cells)
    differs = [first != other for other in others]
    one = torch.arange(first.shape[0]) == 0  # counted as mixed in any case: ONNX Runtime 1.31 fails on an empty ArgMax
    mixed = (differs[0] | differs[1] | differs[2] | one).nonzero().squeeze(1)  # (K)
    corners = _corners(h, w)
    cells = corners.shape[1]
    image = torch.div(mixed, cells, rounding_mode="floor")
    at = corners[:, mixed % cells] + image * (h * w)
    near = logits[at.flatten()].reshape(len(corners), -1)  # (4, K C)
    inside = (_cell_weights(scale, coarse.dtype) @ near).reshape(scale * scale, -1, C).argmax(dim=-1)  # (scale^2, K)
    # The labels of the other cells are repeated as an image is enlarged, and the mixed pixels written over them: to
    # expand cells to pixels and transpose those is slow in ONNX Runtime, byte by byte.
    tall, wide = (h + 1) * scale, (w + 1) * scale
    pixels = F.interpolate(first.reshape(N, 1, h + 1, w + 1), scale_factor=scale, mode="nearest").flatten()
    starts = (torch.arange(h + 1)[:, None] * wide + torch.arange(w + 1)).flatten() * scale
    inner = (torch.arange(scale)[:, None] * wide + torch.arange(scale)).reshape(-1, 1)
    where = starts[mixed % cells] + image * (tall * wide) + inner  # (scale^2, K)
    pixels = pixels.scatter(0, where.flatten(), inside.to(torch.uint8).flatten())
    margin = scale // 2
    return pixels.reshape(N, tall, wide)[:, margin:-margin, margin:-margin]


def _corner_labels(labels: Tensor) -> list[Tensor]:
    """Labels of the four pixels around each cell, uint8 (N, h, w) to four (N, h + 1, w + 1), in the order of
    :func:`_corners`: views of the map with its border repeated, which an engine cuts faster than it gathers."""
    labels = torch.cat([labels[:, :1], labels, labels[:, -1:]], dim=1)
    labels = torch.cat([labels[:, :, :1], labels, labels[:, :, -1:]], dim=2)
    return [rows[:, :, columns] for rows in (labels[:, :-1], labels[:, 1:]) for columns in (slice(-1), slice(1, None))]


def _corners(h: int, w: int) -> Tensor:
    """Indices into a map's h w pixels of the four around each of its (h + 1) (w + 1) cells, border pixels repeated:
    int64 (4, cells), top left, top right, bottom left, bottom right."""
    rows, columns = (torch.arange(-1, side).clamp(min=0) for side in (h, w))
    below, right = (torch.arange(side + 1).clamp(max=side - 1) for side in (h, w))
    pairs = ((rows, columns), (rows, right), (below, columns), (below, right))
    return torch.stack([(row[:, None] * w + column).flatten() for row, column in pairs])


def _cell_weights(scale: int, dtype: torch.dtype) -> Tensor:
    """Weights of a cell's corners in its scale^2 pixels, row by row: (scale^2, 4)."""
    towards = (torch.arange(scale, dtype=dtype) + 0.5) / scale
    ends = torch.stack([1 - towards, towards], dim=1)  # (scale, 2)
    return torch.einsum("yi,xj->yxij", ends, ends).reshape(scale * scale, 4)


def upsample(coarse: Tensor, scale: int = SCALE) -> Tensor:
    """Bilinear upsampling, half-pixel centres: float (N, C, h, w) to (N, C, scale h, scale w)."""
    return resize(coarse, (coarse.shape[2] * scale, coarse.shape[3] * scale))


def upsample_pixels(pixels: Tensor, scale: int) -> Tensor:
    """The same of a channels-last map: float (N, h, w, C) to (N, scale h, scale w, C).

    ONNX Runtime's Resize copies whole channel vectors there. PyTorch's exporter knows Resize for (N, C, H, W) only, so
    that the node is written directly when exporting.
    """
    if not torch.onnx.is_in_onnx_export():
        return upsample(pixels.permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1)
    N, h, w, C = pixels.shape
    enlarged: Tensor = torch.onnx.ops.symbolic(
        "Resize",
        (pixels, None, torch.tensor([1.0, scale, scale, 1.0])),
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        dtype=pixels.dtype,
        shape=(N, h * scale, w * scale, C),
    )
    return enlarged


def _lowest_argmax(classes: Sequence[Tensor]) -> Tensor:
    """The index of the largest as uint8, by a chain of comparisons: a later class wins only if it is greater.

    Winners' indices rise, so that the last of them is the largest. Written as a maximum it comes first in the engine's
    order of nodes, each comparison right after the one before: OpenVINO fuses neighbours.
    """
    best = classes[0]
    label = torch.zeros((), dtype=best.dtype)
    for index, logits in enumerate(classes[1:], start=1):
        label = torch.maximum(label, torch.where(logits > best, float(index), 0.0))
        best = torch.maximum(best, logits)
    return label.to(torch.uint8)


LABEL_MAPS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "plain": plain,
    "channels_last": channels_last,
    "phases": phases,
    "mixed_cells": mixed_cells,
}


def argmax(logits: Tensor, form: str) -> Tensor:
    """Labels (N, H, W) of logits float (N, C, H, W) that need no upsampling, in the manner of a form of LABEL_MAPS."""
    if form == "phases":
        return _lowest_argmax(logits.unbind(1))
    if form == "plain":
        return logits.argmax(dim=1)
    return logits.permute(0, 2, 3, 1).argmax(dim=-1)


def labels_of_shuffled(coarse: Tensor, scale: int, form: str) -> Tensor:
    """Labels of logits whose upsampling is a pixel shuffle: argmax first, then the shuffle of one label map.

    float (N, C scale^2, h, w) to integer (N, scale h, scale w), in the manner of a form of LABEL_MAPS.
    """
    N, channels, h, w = coarse.shape
    each = argmax(coarse.reshape(N, channels // scale**2, scale**2 * h, w), form)
    return each.reshape(N, scale, scale, h, w).permute(0, 3, 1, 4, 2).reshape(N, h * scale, w * scale)
