"""The forms of :mod:`fptk.models.deploy.label_map` as ONNX nodes, for a graph that was never in PyTorch.

From scores float (N, C, h, w) to labels uint8 (N, H, W), in the form that an engine runs fastest. What each form is and
why it gives the labels of upsampling followed by argmax is said there; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fptk.export.foreign.nodes import Nodes


@dataclass(frozen=True)
class Coarse:
    """Scores before their upsampling."""

    name: str
    """Tensor, float (N, C, h, w)."""
    classes: int
    height: int
    width: int
    scale: int
    """Even factor of the bilinear upsampling, half-pixel centers."""
    batch: int | None
    """N; ``None`` is open."""


def mixed_cells(nodes: Nodes, coarse: Coarse) -> str:
    """Interpolate only where the label can change: between neighbours whose own labels differ."""
    from onnx import TensorProto

    h, w, scale = coarse.height, coarse.width, coarse.scale
    corners = _corners(h, w)
    cells = corners.shape[1]
    logits = nodes.reshape(nodes.transpose(coarse.name, 0, 2, 3, 1), -1, coarse.classes)  # (N h w, C)
    own = nodes.cast(nodes.add("ArgMax", logits, axis=-1, keepdims=0), TensorProto.UINT8)
    first, *others = _corner_labels(nodes, nodes.reshape(own, -1, h, w), h, w)
    differs = [nodes.add("Not", nodes.add("Equal", first, other)) for other in others]
    for other in (*differs[1:], _first_of(nodes, first, cells, coarse.batch)):
        differs[0] = nodes.add("Or", differs[0], other)
    mixed = nodes.reshape(nodes.add("NonZero", differs[0]), -1)  # (K)
    cell, image = (nodes.add(op_type, mixed, np.int64(cells)) for op_type in ("Mod", "Div"))
    at = nodes.add("Gather", corners, cell, axis=1)  # (4, K)
    if coarse.batch != 1:
        at = nodes.add("Add", at, nodes.add("Mul", image, np.int64(h * w)))
    near = nodes.reshape(nodes.add("Gather", logits, nodes.reshape(at, -1), axis=0), 4, -1)  # (4, K C)
    inside = nodes.reshape(nodes.add("MatMul", _cell_weights(scale), near), scale * scale, -1, coarse.classes)
    labels = nodes.cast(nodes.add("ArgMax", inside, axis=-1, keepdims=0), TensorProto.UINT8)  # (scale^2, K)
    tall, wide = (h + 1) * scale, (w + 1) * scale
    factors = np.array([1, 1, scale, scale], np.float32)
    as_map = nodes.reshape(first, -1, 1, h + 1, w + 1)
    every = nodes.add(
        "Resize",
        as_map,
        "",
        factors,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    starts = ((np.arange(h + 1)[:, None] * wide + np.arange(w + 1)).ravel() * scale).astype(np.int64)
    inner = (np.arange(scale)[:, None] * wide + np.arange(scale)).reshape(-1, 1).astype(np.int64)
    where = nodes.add("Gather", starts, cell, axis=0)
    if coarse.batch != 1:
        where = nodes.add("Add", where, nodes.add("Mul", image, np.int64(tall * wide)))
    where = nodes.reshape(nodes.add("Add", inner, where), -1)  # (scale^2 K)
    pixels = nodes.add("ScatterElements", nodes.reshape(every, -1), where, nodes.reshape(labels, -1), axis=0)
    margin = scale // 2
    starts_of, ends = np.array([margin, margin], np.int64), np.array([-margin, -margin], np.int64)
    return nodes.add("Slice", nodes.reshape(pixels, -1, tall, wide), starts_of, ends, np.array([1, 2], np.int64))


def _corner_labels(nodes: Nodes, labels: str, h: int, w: int) -> list[str]:
    """Labels of the four pixels around each cell, uint8 (N, h, w) to four (N (h + 1) (w + 1)), as :func:`_corners` has
    them: parts of the map with its border repeated."""

    def cut(name: str, axis: int, first: int, last: int) -> str:
        limits = (np.array([each], np.int64) for each in (first, last, axis))
        return nodes.add("Slice", name, *limits)

    for axis, side in ((1, h), (2, w)):
        labels = nodes.add("Concat", cut(labels, axis, 0, 1), labels, cut(labels, axis, side - 1, side), axis=axis)
    rows = (cut(labels, 1, first, h + 1 + first) for first in (0, 1))
    return [nodes.reshape(cut(row, 2, first, w + 1 + first), -1) for row in rows for first in (0, 1)]


def _first_of(nodes: Nodes, cells_of_all: str, cells: int, batch: int | None) -> str:
    """True for the first cell alone: ONNX Runtime 1.31 fails on an ArgMax of nothing."""
    if batch is not None:
        return nodes.constant(np.arange(batch * cells) == 0)
    count = nodes.reshape(nodes.add("Shape", cells_of_all))
    return nodes.add("Equal", nodes.add("Range", np.int64(0), count, np.int64(1)), np.int64(0))


def _corners(h: int, w: int) -> npt.NDArray[np.int64]:
    """Indices of the four pixels around each of the (h + 1) (w + 1) cells, int64 (4, cells)."""
    rows, columns = (np.arange(-1, side).clip(min=0) for side in (h, w))
    below, right = (np.arange(side + 1).clip(max=side - 1) for side in (h, w))
    pairs = ((rows, columns), (rows, right), (below, columns), (below, right))
    return np.stack([(row[:, None] * w + column).ravel() for row, column in pairs]).astype(np.int64)


def _cell_weights(scale: int) -> npt.NDArray[np.float32]:
    """Weights of a cell's corners in its scale^2 pixels, row by row: float32 (scale^2, 4)."""
    towards = (np.arange(scale) + 0.5) / scale
    ends = np.stack([1 - towards, towards], axis=1)
    return np.asarray(np.einsum("yi,xj->yxij", ends, ends).reshape(scale * scale, 4), np.float32)


def phases(nodes: Nodes, coarse: Coarse) -> str:
    """Columns and rows mixed with broadcast weights, classes compared one by one."""
    h, w, scale = coarse.height, coarse.width, coarse.scale
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    padded = nodes.add("Pad", coarse.name, pads, mode="edge")
    by_phase = [_neighbour_weights(q, scale) for q in range(scale)]
    parts = []
    for first, weights in enumerate(np.array(by_phase, np.float32).T):
        ends = (np.array([first], np.int64), np.array([first + w], np.int64), np.array([3], np.int64))
        part = nodes.reshape(nodes.add("Slice", padded, *ends), 0, coarse.classes, h + 2, 1, w)
        parts.append(nodes.add("Mul", part, weights[:, None].copy()))
    columns = nodes.add("Add", nodes.add("Add", parts[0], parts[1]), parts[2])  # (N, C, h + 2, scale, w)
    lower = ((np.arange(scale, dtype=np.float32) + 0.5) / scale).reshape(scale, 1, 1)
    mixtures = []
    for each in _unbind(nodes, columns, coarse.classes, (h + 2, scale, w)):
        top, bottom = (nodes.reshape(_rows(nodes, each, first, h + 1), 0, h + 1, 1, scale, w) for first in range(2))
        mixtures.append(nodes.add("Add", nodes.add("Mul", top, 1 - lower), nodes.add("Mul", bottom, lower)))
    labels = nodes.reshape(_lowest_argmax(nodes, mixtures), 0, (h + 1) * scale, scale, w)
    margin = scale // 2
    rows = nodes.split(labels, [margin, h * scale, margin], 1)[1]
    return nodes.reshape(nodes.transpose(rows, 0, 1, 3, 2), 0, h * scale, w * scale)


def _unbind(nodes: Nodes, maps: str, classes: int, rest: tuple[int, ...]) -> list[str]:
    """The maps of each class, (N, *rest)."""
    return [nodes.reshape(each, 0, *rest) for each in nodes.split(maps, [1] * classes, 1)]


def _neighbour_weights(p: int, scale: int) -> tuple[float, float, float]:
    """What inputs i - 1, i and i + 1 weigh in output pixel scale i + p; one of the outer two weighs nothing."""
    position = (p + 0.5) / scale - 0.5
    return max(-position, 0.0), 1 - abs(position), max(position, 0.0)


def _rows(nodes: Nodes, maps: str, first: int, count: int) -> str:
    """Rows (dimension 1 of count + 1) as a part of a Split."""
    return nodes.split(maps, [1, count] if first else [count, 1], 1)[first]


def _lowest_argmax(nodes: Nodes, classes: list[str]) -> str:
    """The index of the largest as uint8, by a chain of comparisons: a later class wins only if it is greater."""
    from onnx import TensorProto

    best, label = classes[0], nodes.constant(np.float32(0))
    for index, scores in enumerate(classes[1:], start=1):
        wins = nodes.add("Where", nodes.add("Greater", scores, best), np.float32(index), np.float32(0))
        label = nodes.add("Max", label, wins)
        best = nodes.add("Max", best, scores)
    return nodes.cast(label, TensorProto.UINT8)


def plain(nodes: Nodes, coarse: Coarse) -> str:
    """Upsample, then argmax over the channel axis, as it is usually written."""
    scales = np.array([1, 1, coarse.scale, coarse.scale], np.float32)
    full = nodes.add("Resize", coarse.name, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    return argmax(nodes, full, "plain", coarse.classes, (coarse.height * coarse.scale, coarse.width * coarse.scale))


LABEL_MAPS: dict[str, Callable[[Nodes, Coarse], str]] = {
    "plain": plain,
    "phases": phases,
    "mixed_cells": mixed_cells,
}
"""Forms of scores that are upsampled; each gives the name of uint8 labels (N, H, W)."""


def argmax(nodes: Nodes, scores: str, form: str, classes: int, size: tuple[int, int]) -> str:
    """Labels of scores (N, C, H, W) that need no upsampling, in the manner of a form."""
    from onnx import TensorProto

    if form == "phases":
        return _lowest_argmax(nodes, _unbind(nodes, scores, classes, size))
    if form == "plain":
        return nodes.cast(nodes.add("ArgMax", scores, axis=1, keepdims=0), TensorProto.UINT8)
    last = nodes.transpose(scores, 0, 2, 3, 1)
    return nodes.cast(nodes.add("ArgMax", last, axis=-1, keepdims=0), TensorProto.UINT8)
