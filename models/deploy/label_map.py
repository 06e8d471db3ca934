"""From coarse logits to the label map: upsampling, then argmax, in the form an engine runs best.

All bilinear forms but :func:`keys`, which rounds the logits, give the same labels as
``interpolate(logits, scale_factor=scale, mode="bilinear").argmax(1)``, the lowest class where logits are equal; they
differ in how the engine walks through the memory. (Interpolation weights are multiples of 1 / (2 scale) and applied to
columns first, then rows: a sum may round differently in its last bit, which can turn a label only where two classes are
equal to within that bit.) The scale is even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fptk.models.blocks import resize
from fptk.models.engine_form import EXACT

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
    """Mix columns and rows with broadcast weights, and compare classes one by one.

    An output pixel lies in a cell of four input pixels, and all scale x scale output pixels of a cell mix the same
    four. Columns are mixed first, the scale columns of an input pixel side by side. Rows are mixed as they are
    compared: the upper and the lower rows of a class's cells are two views of its memory, and the scale rows of a cell
    are a dimension of the weights alone. So OpenVINO, whose ArgMax is a sort, compiles mixtures and comparisons to a
    few passes of vector code that read a class once for all rows, and write nothing but the best logit and its label.
    """
    return _cropped(_lowest_argmax(_class_mixtures(coarse, scale)), scale)


KEY_BITS = 13
"""Binary places that :func:`keys` keeps of a logit, at the least 8,191 steps between the largest and the cut-off."""
KEY_RANGE = 256.0
"""How far below the largest logit of a pixel :func:`keys` cuts off."""


def keys(coarse: Tensor, scale: int = SCALE) -> Tensor:
    """The same for engines whose logits are inexact: the class is a part of the number that is compared.

    A pixel's logits, less the largest of them, are rounded to whole numbers of steps: 8,191 of them from the largest of
    all pixels to the smallest, or to :data:`KEY_RANGE` below the largest, where values are cut off. They are multiplied
    by 4 scale^2, which makes every interpolated value a whole number, and by the next power of two above the number of
    classes, which leaves room to add the class's rank. So a maximum over the classes finds logit and label at once,
    without a comparison and a second running value. All of it is exact in float32, whose whole numbers reach to 2^24.
    A label can differ from the exact one where two classes are equal to within a step. (bf16 has 8 binary places.) With
    more classes or a larger scale there would be fewer steps: these take :func:`phases`.
    """
    classes = int(coarse.shape[1])
    places = 2 ** (classes - 1).bit_length()
    unit = places * 4 * scale**2
    steps = 2**24 // unit - 1
    if scale & (scale - 1) or steps < 2**KEY_BITS - 1:
        return phases(coarse, scale)
    below = coarse - coarse.amax(dim=1, keepdim=True)
    reach = torch.clamp(-below.amin(dim=(1, 2, 3), keepdim=True), 1e-30, KEY_RANGE)
    whole = torch.round(torch.clamp_min(below * (steps / reach), -float(steps))) * float(unit)
    ranks = range(classes - 1, -1, -1)  # the lowest class of equal logits has the highest rank
    best = _greatest(_class_mixtures(whole, scale, ranks))
    rank = best - torch.floor(best * (1 / places)) * places
    return _cropped((classes - 1 - rank).to(torch.uint8), scale)


def _class_mixtures(coarse: Tensor, scale: int, added: Sequence[int] | None = None) -> list[Tensor]:
    """Each class's interpolated map, float (N, h + 1, scale, scale, w) of (N, C, h, w).

    The axes are rows of cells, rows in a cell, columns of an input pixel, input columns. ``added`` is a number for each
    class, added to its values.
    """
    h, w = coarse.shape[2:]
    padded = F.pad(coarse, (1, 1, 1, 1), mode="replicate")
    by_phase = [_neighbour_weights(q, scale) for q in range(scale)]
    by_neighbour = torch.tensor(by_phase, dtype=coarse.dtype).T.unsqueeze(2)  # (3, scale, 1)
    left, middle, right = (
        padded.narrow(3, first, w).unsqueeze(3) * weights for first, weights in enumerate(by_neighbour)
    )
    columns = left + middle + right  # (N, C, h + 2, scale, w)
    lower = ((torch.arange(scale, dtype=coarse.dtype) + 0.5) / scale).reshape(scale, 1, 1)
    upper = 1 - lower
    mixtures = []
    for index, each in enumerate(columns.unbind(1)):
        top, bottom = (_rows(each, first, h + 1).unsqueeze(2) for first in range(2))
        mixed = bottom * lower
        mixtures.append(top * upper + (mixed if added is None else mixed + float(added[index])))
    return mixtures


def _cropped(labels: Tensor, scale: int) -> Tensor:
    """Labels of cells, (N, h + 1, scale, scale, w), as an image (N, scale h, scale w): half a cell less at each end."""
    N, cells, w = labels.shape[0], int(labels.shape[1]), int(labels.shape[4])
    rows = _rows(labels.reshape(N, cells * scale, scale, w), scale // 2, (cells - 1) * scale)
    return rows.transpose(2, 3).reshape(N, (cells - 1) * scale, w * scale)


def _neighbour_weights(p: int, scale: int) -> tuple[float, float, float]:
    """What inputs i - 1, i and i + 1 weigh in output pixel scale i + p; one of the outer two weighs nothing."""
    position = (p + 0.5) / scale - 0.5
    return max(-position, 0.0), 1 - abs(position), max(position, 0.0)


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


def _greatest(maps: Sequence[Tensor]) -> Tensor:
    """The largest of several at each place."""
    best = maps[0]
    for each in maps[1:]:
        best = torch.maximum(best, each)
    return best


LABEL_MAPS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "plain": plain,
    "channels_last": channels_last,
    "phases": phases,
    "keys": keys,
    "mixed_cells": mixed_cells,
}


def argmax(logits: Tensor, form: str) -> Tensor:
    """Labels (N, H, W) of logits float (N, C, H, W) that need no upsampling, in the manner of a form of LABEL_MAPS."""
    if EXACT.get(form, form) == "phases":
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
