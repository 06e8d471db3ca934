"""The picture of a sensitivity ranking: what INT8 costs each layer group alone."""

from __future__ import annotations

from pathlib import Path

from fptk.calibration.sensitivity import Sensitivity
from fptk.core.charts import chart


def draw_sensitivity(ranking: Sensitivity, title: str, path: Path) -> None:
    """Draw a bar per layer group, the most sensitive on top, into a PNG.

    Args:
        ranking: at least one row.
        title: what stands above it.
        path: ends in ``.png``.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    rows = ranking.rows[::-1]
    with chart(path, (8, 1 + 0.22 * len(rows)), "export") as figure:
        axes = figure.subplots()
        bars = axes.barh([row.group for row in rows], [row.snr_db for row in rows])
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
        axes.tick_params(axis="y", labelsize=7)
        axes.set(title=title, xlabel="SNR of the logits with this group alone in INT8, dB")
        axes.margins(x=0.08, y=0.01)
