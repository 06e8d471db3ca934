"""The picture of a sensitivity ranking: what INT8 costs each layer group alone."""

from __future__ import annotations

from pathlib import Path

from fptk.calibration.sensitivity import Sensitivity
from fptk.errors import missing_package
from fptk.files import atomic_file


def draw_sensitivity(ranking: Sensitivity, title: str, path: Path) -> None:
    """Draw a bar per layer group, the most sensitive on top, into a PNG.

    Args:
        ranking: at least one row.
        title: what stands above it.
        path: ends in ``.png``.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package(error.name or "matplotlib", "export") from error

    rows = ranking.rows[::-1]
    figure = Figure(figsize=(8, 1 + 0.22 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.barh([row.group for row in rows], [row.snr_db for row in rows])
    axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.tick_params(axis="y", labelsize=7)
    axes.set(title=title, xlabel="SNR of the logits with this group alone in INT8, dB")
    axes.margins(x=0.08, y=0.01)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
