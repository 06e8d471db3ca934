"""Which layers int8 hurts: each group is quantized alone and the logits are compared with the float ones."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from fptk.calibration.images import ImageStream
from fptk.calibration.onnx_graph import load_float_model, logits_tensor, node_group, open_session, quantizable_nodes
from fptk.calibration.onnx_quantizer import OnnxQuantSettings, insert_qdq, measured_ranges
from fptk.calibration.range_cache import RangeCache
from fptk.core.charts import chart
from fptk.core.errors import InputError
from fptk.core.files import sha256_file, sha256_json, write_json
from fptk.core.host import tool_versions
from fptk.core.progress import SILENT, Listener

if TYPE_CHECKING:
    import onnx
    from matplotlib.axes import Axes

Float32 = npt.NDArray[np.float32]

LOGIT_SAMPLES = 400_000
"""Logits of one image that are compared; a regular sample, the same of every graph."""


class GroupSensitivity(BaseModel):
    """What one group of layers costs when it alone is int8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    """Module path, e.g. ``stages.2.blocks.0.mlp.fc1``, or the node's name."""
    nodes: tuple[str, ...]
    """Names of the ONNX nodes that were quantized."""
    snr_db: float
    """Signal to noise ratio of the logits in decibels, 10 log10(sum ref^2 / sum (ref - int8)^2), capped at 200 dB."""


class Sensitivity(BaseModel):
    """Groups ranked from the most to the least sensitive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[GroupSensitivity, ...]
    """Lowest signal to noise ratio first."""
    unmeasured: tuple[str, ...]
    """Groups that the time limit left out; a further call measures them."""
    images: int
    """Images that the logits were compared on."""
    settings: dict[str, Any]
    """Of the quantizer, for every group alike."""
    seconds: float
    """Time of this call."""

    def nodes_of_worst(self, count: int) -> tuple[str, ...]:
        """Names of the nodes of the ``count`` most sensitive groups."""
        return tuple(node for row in self.rows[:count] for node in row.nodes)


@dataclasses.dataclass(frozen=True)
class SensitivityPlan:
    """How sensitivities are measured."""

    settings: OnnxQuantSettings = dataclasses.field(default_factory=OnnxQuantSettings)
    """Recipe of the groups; ``smooth_quant``, ``float_nodes`` and ``only_nodes`` do not apply."""
    images: int = 8
    """Images that logits are compared on, the first ones of the stream."""
    max_seconds: float = 300.0
    """No further group is started after this time."""
    groups: Mapping[str, Sequence[str]] | None = None
    """Node names by group; ``None`` groups the nodes by the module they were exported from."""


def measure_sensitivity(
    source: Path,
    images: ImageStream,
    cache: RangeCache,
    plan: SensitivityPlan | None = None,
    listener: Listener = SILENT,
) -> Sensitivity:
    """Rank the groups of ``source`` by what int8 costs each alone.

    Ranges are measured once (and kept in ``cache``); a group then costs one graph with Q/DQ around its nodes and
    ``plan.images`` inferences. Each finished group is kept, so a killed or timed-out call goes on where it stopped.

    Args:
        source: float ONNX file.
        images: starts a pass over the calibration images, uint8 (1, H, W, 3).
        cache: keeps ranges and finished groups.
        plan: settings; ``None`` takes the defaults.
        listener: told of each group that is measured, not of those that were kept.

    Raises:
        InputError: the model is missing, damaged or quantized, the set is empty, or a group names an unknown node.
    """
    started = time.monotonic()
    plan = plan or SensitivityPlan()
    settings = plan.settings.model_copy(update={"smooth_quant": False, "float_nodes": (), "only_nodes": None})
    model = load_float_model(source)
    groups = _checked_groups(model, plan.groups) if plan.groups else module_groups(model, settings)
    table = measured_ranges(model, sha256_file(source), images, settings, cache)
    journal = _Journal(cache, source, settings, plan.images)
    reference: _Reference | None = None
    rows, unmeasured = [], []
    with listener.counting("measuring sensitivity", len(groups)) as update:
        for number, (group, nodes) in enumerate(groups.items()):
            row = journal.find(group, nodes)
            if row is None and time.monotonic() - started > plan.max_seconds:
                unmeasured.append(group)
                continue
            if row is None:
                update(number, f"measuring sensitivity: {group}")
                reference = reference or _Reference(model, images, plan.images)
                snr = reference.compare(insert_qdq(model, table.ranges, settings, nodes))
                row = GroupSensitivity(group=group, nodes=tuple(nodes), snr_db=snr)
                journal.add(row)
            rows.append(row)
    return Sensitivity(
        rows=tuple(sorted(rows, key=lambda row: row.snr_db)),
        unmeasured=tuple(unmeasured),
        images=min(plan.images, table.images),
        settings=settings.model_dump(mode="json"),
        seconds=round(time.monotonic() - started, 3),
    )


def module_groups(model: onnx.ModelProto, settings: OnnxQuantSettings) -> dict[str, list[str]]:
    """Quantizable node names by the module that they were exported from, in graph order."""
    groups: dict[str, list[str]] = {}
    for node in quantizable_nodes(model, settings.op_types):
        groups.setdefault(node_group(node), []).append(node.name)
    return groups


def ratio_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), kept within -200 and 200; not-finite noise is -200."""
    if not math.isfinite(noise) or signal <= 0:
        return -200.0
    if noise <= 0:
        return 200.0
    return min(200.0, max(-200.0, 10 * math.log10(signal / noise)))


def draw_sensitivity(ranking: Sensitivity, title: str, path: Path) -> None:
    """Draw a bar per layer group, the most sensitive on top, into a PNG.

    Args:
        ranking: at least one row.
        title: what stands above it.
        path: ends in ``.png``.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    with chart(path, (8, 1 + 0.22 * len(ranking.rows)), "export") as figure:
        axes = figure.subplots()
        plot_sensitivity(axes, ranking.rows)
        axes.set_title(title)


def plot_sensitivity(
    axes: Axes, rows: Sequence[GroupSensitivity], name: Callable[[str], str] = str, color: str | None = None
) -> None:
    """Draw a bar per layer group, the first on top; ``name`` turns a group into its label."""
    bars = axes.barh(range(len(rows)), [row.snr_db for row in rows], color=color)
    axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.set_yticks(range(len(rows)), [name(row.group) for row in rows], size=7)
    axes.set_xlabel("SNR of the logits with this group alone in INT8, dB")
    axes.margins(x=0.08, y=0.01)
    axes.invert_yaxis()


class _Reference:
    """Sampled float logits of the first images, and the comparison with another graph's."""

    def __init__(self, model: onnx.ModelProto, images: ImageStream, count: int) -> None:
        self._tensor = logits_tensor(model)
        self._images, self._count = images, count
        self._logits = list(self._run(model))
        if not self._logits:
            raise InputError("the calibration set is empty: there is nothing to compare logits on")

    def compare(self, model: onnx.ModelProto) -> float:
        """Signal to noise ratio of the graph's logits over all images, in decibels."""
        signal = noise = 0.0
        for reference, other in zip(self._logits, self._run(model), strict=True):
            signal += float(np.square(reference, dtype=np.float64).sum())
            noise += float(np.square(reference - other, dtype=np.float64).sum())
        return ratio_db(signal, noise)

    def _run(self, model: onnx.ModelProto) -> Iterator[Float32]:
        session = open_session(model, [self._tensor], float_only=True)  # rounding alone: int8 kernels may saturate here
        for count, batch in enumerate(self._images()):
            if count >= self._count:
                return
            logits = session.run(None, {session.get_inputs()[0].name: batch})[0].ravel()
            # An odd step falls on all columns and classes in turn.
            yield logits[:: max(1, logits.size // LOGIT_SAMPLES) | 1].astype(np.float32)


class _Journal:
    """Finished groups on disk, one file per (weights, list, preprocessing, settings, tools)."""

    def __init__(self, cache: RangeCache, source: Path, settings: OnnxQuantSettings, images: int) -> None:
        self._key = cache.full_key(
            {
                "weights": sha256_file(source),
                "settings": settings.model_dump(mode="json"),
                "compared": images,
                "versions": tool_versions("fptk", "onnx", "onnxruntime"),
            }
        )
        self._path = cache.folder / f"sensitivity-{sha256_json(self._key)[:24]}.json"
        self._rows = self._load()

    def find(self, group: str, nodes: Sequence[str]) -> GroupSensitivity | None:
        row = self._rows.get(group)
        return row if row and row.nodes == tuple(nodes) else None

    def add(self, row: GroupSensitivity) -> None:
        self._rows[row.group] = row
        rows = [row.model_dump(mode="json") for row in self._rows.values()]
        write_json(self._path, {"key": self._key, "rows": rows})

    def _load(self) -> dict[str, GroupSensitivity]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["key"] != self._key:
                return {}
            rows = [GroupSensitivity.model_validate(row) for row in stored["rows"]]
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return {}
        return {row.group: row for row in rows}


def _checked_groups(model: onnx.ModelProto, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    known = {node.name for node in model.graph.node}
    for group, nodes in groups.items():
        for name in nodes:
            if name not in known:
                raise InputError(f"layer group '{group}' names node '{name}', which the graph does not hold")
    return {group: list(nodes) for group, nodes in groups.items()}
