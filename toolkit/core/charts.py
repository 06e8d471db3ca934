"""Figures without a window system, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fptk.core.errors import missing_package
from fptk.core.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def chart(path: Path, size: tuple[float, float], extra: str) -> Iterator[Figure]:
    """Yield an empty figure, and write it to ``path`` as PNG when it has been drawn.

    Args:
        path: the file.
        size: width and height in inches, at 110 pixels an inch.
        extra: of the package, the one that brings matplotlib.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package(error.name or "matplotlib", extra) from error

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
