"""The charts of a report. Each draws what a table of its section says in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fptk.calibration.sensitivity import Sensitivity, plot_sensitivity
from fptk.report.blocks import Chart
from fptk.report.svg import DASHES, INK, PAPER, QUIET, SERIES, drawing, legend_below, short, style_of
from fptk.training.curves import Panel, plot_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 350
"""Of a chart, in units of the page: that of a phone."""

Named = tuple[str, Sequence[float | None]]
"""An engine, and its value for each class."""


def class_iou(classes: Sequence[str], reference: Sequence[float | None], engines: Sequence[Named]) -> Chart:
    """IoU of each class: the FP32 reference as bars, the engines as marks.

    Args:
        classes: names, in order.
        reference: IoU of each, 0-1; ``None`` where the class does not occur.
        engines: the same of each engine.
    """
    caption = "IoU by class: the bar is PyTorch FP32, each mark an engine"
    with drawing("class-iou", "IoU by class", f"{caption}; the table below has the figures", _tall(classes)) as drawn:
        axes = drawn.figure.subplots()
        places = np.arange(len(classes))
        axes.barh(places, _percent(reference), height=0.62, color=QUIET, alpha=0.3, label="PyTorch FP32")
        for number, (name, values) in enumerate(engines):
            spots = places + _lane(number, len(engines))
            axes.plot(_percent(values), spots, linestyle="", markersize=3.5, label=short(name), **style_of(number))
        _by_class(axes, classes)
        axes.set(xlabel="IoU, points", xlim=(0, 100))
        legend_below(drawn.figure)
    return Chart(drawn.svg, caption)


def class_change(
    classes: Sequence[str], reference: Sequence[float | None], engines: Sequence[Named], limit: float | None
) -> Chart:
    """What each engine gains or loses of each class, beside the gate's limit in points; arguments as before."""
    caption = "Change against PyTorch FP32 by class" + (f"; the gate's limit is −{limit:g} points" if limit else "")
    with drawing("class-change", "Change of the IoU by class", f"{caption}.", _tall(classes)) as drawn:
        axes = drawn.figure.subplots()
        places = np.arange(len(classes))
        axes.axvline(0, color=QUIET, linewidth=1)
        for number, (name, values) in enumerate(engines):
            change = _percent(values) - _percent(reference)
            spots = places + _lane(number, len(engines))
            axes.plot(change, spots, linestyle="", markersize=3.5, label=short(name), **style_of(number))
        if limit:
            axes.axvline(-limit, color=SERIES[1], linewidth=1.2, linestyle="--", label="limit of the gate")
        _by_class(axes, classes)
        axes.set(xlabel="points of IoU")
        legend_below(drawn.figure)
    return Chart(drawn.svg, caption)


def tradeoff(engines: Sequence[tuple[str, float, float]], least: float | None) -> Chart:
    """Speed against accuracy.

    Args:
        engines: name, milliseconds of a call, and mIoU, 0-1.
        least: lowest mIoU that passes the gate; ``None`` where the engines have several gates, or none.
    """
    caption = "Speed against accuracy: up and to the left is better" + ("; the line is the gate" if least else "")
    with drawing("tradeoff", "Speed against accuracy", f"{caption}.", (WIDTH, 290)) as drawn:
        axes = drawn.figure.subplots()
        for number, (name, speed, miou) in enumerate(engines):
            # Hollow: two engines may stand in one place.
            style = {"fillstyle": "none", "markeredgewidth": 2, "markersize": 9, **style_of(number)}
            axes.plot([speed], [100 * miou], linestyle="", label=short(name), **style)
        if least:
            axes.axhline(100 * least, color=SERIES[1], linewidth=1.2, linestyle="--", label="limit of the gate")
        axes.grid(axis="y")
        axes.margins(0.15)
        axes.ticklabel_format(useOffset=False)
        axes.set(xlabel="milliseconds of a call (median)", ylabel="mIoU, points")
        axes.set_xlim(0, 1.15 * max(speed for _, speed, _ in engines))
        legend_below(drawn.figure)
    return Chart(drawn.svg, caption)


def latency(engines: Sequence[tuple[str, Sequence[float]]]) -> Chart:
    """How the timed calls of each engine are distributed.

    Args:
        engines: name, and milliseconds of each call.
    """
    caption = "Latency: share of the calls that took at most so long"
    with drawing("latency", "Distribution of the latency", f"{caption}.", (WIDTH, 290)) as drawn:
        axes = drawn.figure.subplots()
        for number, (name, times) in enumerate(engines):
            line = DASHES[number % len(DASHES)]
            axes.ecdf(times, color=SERIES[number % len(SERIES)], linestyle=line, linewidth=1.8, label=short(name))
        axes.grid(axis="y")
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set(xlabel="milliseconds of a call", ylabel="share of the calls")
        axes.set_xlim(left=0)
        legend_below(drawn.figure)
    return Chart(drawn.svg, caption)


def curve(records: list[dict[str, Any]], panel: Panel) -> Chart:
    """One panel of a training's curves."""
    caption = f"Training: {panel.title}"
    name = f"training-{panel.keys[0].replace('_', '-')}"
    with drawing(name, caption, f"{caption} over the epochs.", (WIDTH, 240)) as drawn:
        axes = drawn.figure.subplots()
        axes.set_prop_cycle(color=SERIES[: len(DASHES)], linestyle=DASHES)
        plot_panel(axes, records, panel)
        axes.grid(axis="y")
        axes.set_title(axes.get_title() if panel.is_score else "")
    return Chart(drawn.svg, caption)


def confusion(engine: str, number: int, counts: npt.NDArray[np.int64], classes: Sequence[str]) -> Chart:
    """A confusion matrix, each row in shares of its true class.

    Args:
        engine: name.
        number: of the chart in the page.
        counts: pixels, (C, C); row = truth, column = prediction.
        classes: names, in order.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    caption = f"{short(engine)}: percent of each true class (row) that are labelled as each class (column)"
    size = len(classes)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    rows, columns = np.nonzero(shares >= 0.005)
    with drawing(f"confusion-{number}", f"Confusion matrix of {engine}", f"{caption}.", (420, 430)) as drawn:
        axes = drawn.figure.subplots()
        corners = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in zip(rows, columns, strict=True)]
        tints = [
            (*to_rgb(SERIES[0] if y == x else SERIES[1]), 0.15 + 0.85 * shares[y, x] ** 0.5)
            for y, x in zip(rows, columns, strict=True)
        ]
        axes.add_collection(PolyCollection(corners, facecolors=tints, edgecolors="none"))
        for y, x in zip(rows, columns, strict=True):
            if (share := shares[y, x]) >= 0.02:
                color = PAPER if share > 0.6 else INK
                axes.text(x + 0.5, y + 0.5, f"{100 * share:.0f}", size=6, color=color, ha="center", va="center")
        places, names = np.arange(size) + 0.5, [short(name) for name in classes]
        axes.set_xticks(places, names, rotation=90, size=7)
        axes.set_yticks(places, names, size=7)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
        axes.set_xlabel("labelled as", size=8)
        axes.set_ylabel("true class", size=8)
    return Chart(drawn.svg, caption, wide=True)


def sensitivity(engine: str, number: int, ranking: Sensitivity, most: int = 24) -> Chart:
    """The layer groups that INT8 costs most."""
    caption = f"{short(engine)}: signal to noise ratio of the logits with one group alone in INT8, lowest first"
    rows = ranking.rows[:most]
    height = 70 + 15 * len(rows)
    with drawing(f"sensitivity-{number}", f"Sensitivity of {engine}", f"{caption}.", (WIDTH, height)) as drawn:
        axes = drawn.figure.subplots()
        plot_sensitivity(axes, rows, name=short, color=SERIES[0])
    return Chart(drawn.svg, caption)


def _tall(classes: Sequence[str]) -> tuple[float, float]:
    """Size of a chart with a line for each class."""
    return WIDTH, 100 + 18 * len(classes)


def _lane(number: int, total: int) -> float:
    """Where in the line of a class the mark of an engine stands, so that none hides another: -0.3 to 0.3."""
    return 0.6 * (number + 0.5) / total - 0.3


def _by_class(axes: Axes, classes: Sequence[str]) -> None:
    axes.set_yticks(np.arange(len(classes)), [short(name) for name in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _percent(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """Hundredths; NaN, which is not drawn, where there is no value."""
    return np.array([np.nan if value is None else 100 * value for value in values])
