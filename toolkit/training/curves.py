"""The picture of a training: loss, validation scores and learning rate over the epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fptk.core.charts import chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(NamedTuple):
    """What one part of the picture shows."""

    title: str
    keys: tuple[str, ...]
    """Of the lines of ``metrics.jsonl``."""
    is_score: bool = False
    """Whether the best validation is marked."""


PANELS = (
    Panel("loss", ("loss", "ce", "dice", "val_loss")),
    Panel("validation", ("f1", "f1_challenge", "miou"), is_score=True),
    Panel("learning rate", ("lr",)),
)


def draw_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the lines of ``metrics.jsonl`` into a PNG.

    Args:
        records: at least one.
        path: ends in ``.png``.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    with chart(path, (12, 3.6), "train") as figure:
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            plot_panel(axes, records, panel)
            axes.grid(alpha=0.3)


def plot_panel(axes: Axes, records: list[dict[str, Any]], panel: Panel) -> None:
    """Draw one panel; ``records`` holds at least one."""
    epochs = [record["epoch"] for record in records]
    for key in panel.keys:
        found = [record.get(key) for record in records]  # an older fptk recorded no val_loss
        values = [math.nan if value is None else float(value) for value in found]
        axes.plot(epochs, values, label=key, marker="." if len(epochs) < 40 else "")
    axes.set(title=panel.title, xlabel="epoch")
    if len(panel.keys) > 1:
        axes.legend()
    if panel.is_score:
        best = max(records, key=lambda record: float(record["f1"]))
        axes.axvline(best["epoch"], color="grey", linewidth=0.8)
        axes.set_title(f"{panel.title} (best f1 {best['f1']:.4f})")
