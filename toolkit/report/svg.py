"""Figures of matplotlib as SVG that stands in a page: its text is text, its colors are the page's, its ids are its own.

A page has a light and a dark side, so a figure names no colors. It is drawn in the stand-ins of this module, and each
becomes a variable of the page's style sheet.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from fptk.core.errors import missing_package, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, GRID, PAPER = "#000001", "#000002", "#000003", "#000004"
"""Stand-ins for the colors of text, of lesser text, of lines, and of the ground."""
SERIES = tuple(f"#0000a{number}" for number in range(8))
"""Stand-ins for the colors of engines, in order; more engines take them again."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
"""What tells engines apart beside their colors."""

_VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--line", PAPER: "--paper"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES)
}
_STAND_IN = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font:\s*((?:bold|700)\s)?\s*([\d.]+)px[^;]*")
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_NOT_IN_XML = dict.fromkeys((0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}")

LONGEST_NAME = 28
"""Characters of a name in a figure."""

_STYLE = {
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.labelcolor": QUIET,
    "axes.labelsize": 10,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "fptk",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
}


class Drawing:
    """A figure that becomes SVG when the ``with`` block of :func:`drawing` ends."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def drawing(name: str, title: str, description: str, size: tuple[float, float]) -> Iterator[Drawing]:
    """Yield a drawing with an empty figure; afterwards its ``svg`` is whole.

    Args:
        name: unique in the page; every id begins with it.
        title: what it is, for those who do not see it.
        description: what it shows, in a sentence.
        size: width and height in units of the page; 10-unit text is readable on a phone where the width is about 350.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package(error.name or "matplotlib", "export") from error

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has it
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasSVG(figure)
        drawn = Drawing(figure)
        yield drawn
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    drawn.svg = _for_page(buffer.getvalue(), name, title, description)


def short(name: str) -> str:
    """A name as a figure shows it: on one line, without control characters, not too long."""
    text = one_line(name).translate(_NOT_IN_XML)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def style_of(number: int) -> dict[str, Any]:
    """Color and marker of the engine with this number."""
    return {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}


def legend_below(figure: Figure) -> None:
    """A legend under the axes, where it hides nothing."""
    figure.legend(loc="outside lower left", ncols=2, handletextpad=0.5, columnspacing=1.4)


def _for_page(content: bytes, name: str, title: str, description: str) -> str:
    """What matplotlib wrote, ready to stand in HTML."""
    root = ElementTree.fromstring(content)
    for parent in root.iter():
        for child in [each for each in parent if each.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata")]:
            parent.remove(child)  # its rules would hold for the whole page
    for element in root.iter():
        _adapt(element, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        child.text = one_line(text)
        root.insert(place, child)
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Give an element's ids the name of the chart, its links no namespace, and its colors to the style sheet."""
    link = element.attrib.pop(f"{{{_XLINK}}}href", None)
    if link is not None:
        element.set("href", link)
    for key, value in element.attrib.items():
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href":
            value = re.sub("^#", f"#{name}-", value)
        value = value.replace("url(#", f"url(#{name}-")
        value = _FONT.sub(lambda font: f"font-size: {font[2]}px" + ("; font-weight: 600" if font[1] else ""), value)
        element.set(key, _STAND_IN.sub(lambda color: f"var({_VARIABLES[color[0]]})", value))
