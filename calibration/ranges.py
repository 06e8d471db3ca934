"""Ranges of activations over a calibration set, measured one image at a time in bounded memory.

ONNX Runtime's own calibrators either keep every image's outputs until the end or, with ``CalibMaxIntermediateOutputs``,
throw away what they had collected (onnxruntime issue 18893, still so in 1.31). Here the graph itself reduces each
activation to its extremes, and histograms are filled image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fptk.calibration.images import ImageStream
from fptk.calibration.onnx_graph import Graph, open_session
from fptk.calibration.range_cache import Range, RangeTable
from fptk.core.errors import InputError

if TYPE_CHECKING:
    import onnx

RangeEstimator = Literal["minmax", "percentile", "entropy", "mse"]
"""How a range follows from the values seen.

``minmax``: the extremes. ``percentile``: the two-sided percentile. ``entropy``: the clip of least Kullback-Leibler
divergence between the distribution and its 8-bit form (Migacz, "8-bit inference with TensorRT", GTC 2017). ``mse``: the
clip of least squared rounding and clipping error.
"""

HISTOGRAM_BINS = 2048
SAMPLES_PER_TENSOR = 65_536
"""Values of one activation of one image that enter its histogram; the extremes are always exact."""


def measure_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images: ImageStream,
    estimator: RangeEstimator = "minmax",
    percentile: float = 99.999,
) -> RangeTable:
    """Measure the range of each tensor over all images.

    Memory is that of one inference: extremes are reduced inside the graph; the other estimators make a second pass
    that adds a sample of at most :data:`SAMPLES_PER_TENSOR` values per tensor and image to a histogram.

    Args:
        model: float model whose first input takes uint8 (1, H, W, 3).
        tensors: names of float activations.
        images: starts a pass over the calibration images; called once for ``minmax``, else twice.
        estimator: how the range follows from the values.
        percentile: share of the values kept by ``percentile``, in percent, both tails together.

    Raises:
        InputError: there is no image, or an activation is not finite.
    """
    extremes, count = _extremes(model, tensors, images)
    if estimator == "minmax":
        return RangeTable({name: (low, high) for name, (low, high, _) in extremes.items()}, count)
    histograms = _histograms(model, extremes, images)
    ranges = {
        name: _clip(histogram, extremes[name][:2], estimator, percentile) for name, histogram in histograms.items()
    }
    return RangeTable(ranges, count)


def channel_maxima(
    model: onnx.ModelProto, tensors: Sequence[tuple[str, int]], images: ImageStream
) -> dict[str, npt.NDArray[np.float32]]:
    """Largest absolute value of each channel over all images.

    Args:
        model: float model whose first input takes uint8 (1, H, W, 3).
        tensors: name and channel axis of each (1 before convolutions, -1 before matrix products).
        images: starts a pass over the calibration images.

    Returns:
        float32 (C,) by name.

    Raises:
        InputError: there is no image.
    """
    from onnx import helper, numpy_helper

    nodes, outputs, constants = [], [], []
    graph = Graph(model)
    for name, axis in tensors:
        rank = len(graph.shape(name) or ())
        axes = np.array([a for a in range(rank) if a != axis % rank], np.int64)
        constants.append(numpy_helper.from_array(axes, f"{name}:axes"))
        nodes.append(helper.make_node("Abs", [name], [f"{name}:abs"]))
        nodes.append(helper.make_node("ReduceMax", [f"{name}:abs", f"{name}:axes"], [f"{name}:channels"], keepdims=0))
        outputs.append(f"{name}:channels")
    session = _session(model, nodes, outputs, constants)
    maxima: list[npt.NDArray[np.float32]] = []
    for batch in images():
        values = session.run(outputs, {session.get_inputs()[0].name: batch})
        maxima = [np.maximum(a, b) for a, b in zip(maxima, values, strict=True)] if maxima else list(values)
    if not maxima and tensors:
        raise InputError("the calibration set is empty: no ranges can be measured")
    return {name: value for (name, _), value in zip(tensors, maxima, strict=True)}


def _extremes(
    model: onnx.ModelProto, tensors: Sequence[str], images: ImageStream
) -> tuple[dict[str, tuple[float, float, int]], int]:
    """(low, high, number of elements in one image) of each tensor, and the number of images."""
    from onnx import helper

    nodes, outputs = [], []
    for name in tensors:
        for op, suffix in (("ReduceMin", "low"), ("ReduceMax", "high"), ("Size", "size")):
            node = helper.make_node(op, [name], [f"{name}:{suffix}"])
            if op != "Size":
                node.attribute.append(helper.make_attribute("keepdims", 0))
            nodes.append(node)
            outputs.append(f"{name}:{suffix}")
    session = _session(model, nodes, outputs)
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    sizes, count = np.zeros(len(tensors), np.int64), 0
    for batch in images():
        values = session.run(outputs, {session.get_inputs()[0].name: batch})
        low = np.minimum(low, np.array(values[0::3], np.float64))
        high = np.maximum(high, np.array(values[1::3], np.float64))
        sizes = np.array(values[2::3], np.int64)
        count += 1
    if count == 0:
        raise InputError("the calibration set is empty: no ranges can be measured")
    for name, bottom, top in zip(tensors, low, high, strict=True):
        if not (np.isfinite(bottom) and np.isfinite(top)):
            raise InputError(f"activation '{name}' is not finite on the calibration images; the weights are damaged")
    table = {name: (float(low[i]), float(high[i]), int(sizes[i])) for i, name in enumerate(tensors)}
    return table, count


def _histograms(
    model: onnx.ModelProto,
    extremes: dict[str, tuple[float, float, int]],
    images: ImageStream,
) -> dict[str, npt.NDArray[np.int64]]:
    """Counts in :data:`HISTOGRAM_BINS` equal bins between the extremes of each tensor."""
    from onnx import helper, numpy_helper

    one = {
        key: numpy_helper.from_array(np.array([value], np.int64), f"fptk:{key}")
        for key, value in (("flat", -1), ("start", 0), ("end", np.iinfo(np.int64).max))
    }
    nodes, outputs, constants = [], [], list(one.values())
    for name, (_, _, size) in extremes.items():
        step = numpy_helper.from_array(
            np.array([_prime_at_least(size // SAMPLES_PER_TENSOR)], np.int64), f"{name}:step"
        )
        constants.append(step)
        nodes.append(helper.make_node("Reshape", [name, "fptk:flat"], [f"{name}:flat"]))
        inputs = [f"{name}:flat", "fptk:start", "fptk:end", "fptk:start", f"{name}:step"]
        nodes.append(helper.make_node("Slice", inputs, [f"{name}:sample"]))
        outputs.append(f"{name}:sample")
    session = _session(model, nodes, outputs, constants)
    counts = {name: np.zeros(HISTOGRAM_BINS, np.int64) for name in extremes}
    for batch in images():
        values = session.run(outputs, {session.get_inputs()[0].name: batch})
        for (name, (low, high, _)), value in zip(extremes.items(), values, strict=True):
            counts[name] += np.histogram(value, HISTOGRAM_BINS, (low, max(high, low + 1e-12)))[0]
    return counts


def _clip(histogram: npt.NDArray[np.int64], extremes: Range, estimator: RangeEstimator, percentile: float) -> Range:
    low, high = extremes
    if histogram.sum() == 0 or high - low <= 0:
        return extremes
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    if estimator == "percentile":
        share = np.concatenate([[0.0], np.cumsum(histogram) / histogram.sum()])
        tail = (100.0 - percentile) / 200.0
        bottom, top = np.interp([tail, 1.0 - tail], share, edges)
        return float(bottom), float(top)
    centers = (edges[:-1] + edges[1:]) / 2
    peak = max(abs(low), abs(high))
    magnitude = np.histogram(np.abs(centers), HISTOGRAM_BINS, (0, peak), weights=histogram)[0]
    share_kept = _least_divergence(magnitude) if estimator == "entropy" else _least_squares(magnitude)
    limit = peak * share_kept
    return max(low, -limit), min(high, limit)


def _least_squares(magnitude: npt.NDArray[np.float64]) -> float:
    """Share of the peak at which clipping |x| costs the least squared error in 127 steps."""
    bins = magnitude.size
    centers = (np.arange(bins) + 0.5) / bins
    shares = np.linspace(0.05, 1.0, 96)
    steps = shares[:, None] / 127
    rounded = np.minimum(np.round(centers / steps), 127) * steps
    # Inside the clip the values of a bin are spread over rounding steps finer than it: step^2 / 12 is their mean error.
    error = np.where(centers <= shares[:, None], steps**2 / 12, (centers - rounded) ** 2)
    return float(shares[int((error * magnitude).sum(axis=1).argmin())])


def _least_divergence(magnitude: npt.NDArray[np.float64], levels: int = 128) -> float:
    """Share of the peak at which the clipped distribution diverges least from its ``levels``-step form."""
    best, share = np.inf, 1.0
    for kept in range(levels, magnitude.size + 1, levels // 8):
        reference = magnitude[:kept].copy()
        reference[-1] += magnitude[kept:].sum()
        occupied = magnitude[:kept] > 0
        group = np.arange(kept) * levels // kept
        mass = np.bincount(group, magnitude[:kept], levels)
        width = np.maximum(np.bincount(group, occupied, levels), 1)
        coarse = np.where(occupied, (mass / width)[group], 0.0)
        if coarse.sum() == 0:
            continue
        p, q = reference / reference.sum(), coarse / coarse.sum()
        held = p > 0
        divergence = float((p[held] * np.log(p[held] / np.maximum(q[held], 1e-9))).sum())
        if divergence < best:
            best, share = divergence, kept / magnitude.size
    return share


def _prime_at_least(number: int) -> int:
    """The smallest prime >= ``number`` above 19, or 1: a step that shares no factor with a channel count or a width."""
    if number <= 1:
        return 1
    candidate = max(number, 23)
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate += 1
    return candidate


def _session(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto] = (),
) -> Any:
    """A session of ``model`` with measuring ``nodes`` appended and only ``outputs`` computed."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.node.extend(nodes)
    probe.graph.initializer.extend(constants)
    return open_session(probe, outputs, arena=False)
