"""What a page is made of: sections of tables, charts, pictures and lines of text, without a word of HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    tone: Tone = ""
    """How it is to be seen; the text says the same."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: frozenset[int] = frozenset({0})
    """Columns of text; all others are figures and stand to the right."""
    folded: bool = False
    """Whether a reader has to open it."""
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Chart:
    """A picture of figures that a table of the same section holds too."""

    svg: str
    """Sound SVG, ready to stand in HTML; its text is escaped."""
    caption: str
    wide: bool = False
    """Whether it is too fine for half a page, or for a phone without scrolling."""
    kind: Literal["chart"] = "chart"


@dataclass(frozen=True)
class Picture:
    """One picture of a face."""

    source: str
    """A ``data:`` address."""
    alternative: str
    """What it shows, for those who do not see it."""
    caption: str
    size: tuple[int, int]
    """Width and height in pixels."""


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one face."""

    title: str
    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Pictures:
    """Faces, a row each."""

    caption: str
    rows: tuple[PictureRow, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """Color (``#rrggbb``) and its meaning."""
    kind: Literal["pictures"] = "pictures"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    caption: str
    pairs: tuple[tuple[str, str], ...]
    code: bool = False
    """Whether the values are to be typed, or are hashes."""
    folded: bool = False
    """Whether a reader has to open it."""
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Lines:
    """Sentences, one a line."""

    lines: tuple[str, ...]
    kind: Literal["lines"] = "lines"


Block = Table | Chart | Pictures | Facts | Lines


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    """Its anchor: lower-case letters."""
    title: str
    introduction: str
    """One or two sentences: what is shown, and how to read it."""
    blocks: tuple[Block, ...]
    missing: str = ""
    """Why there is nothing to show, and what to do to have it; empty where there is."""

    @property
    def charts(self) -> tuple[Chart, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Chart))

    @property
    def others(self) -> tuple[Block, ...]:
        """Everything but the charts."""
        return tuple(block for block in self.blocks if not isinstance(block, Chart))


@dataclass(frozen=True)
class Card:
    """An engine at a glance."""

    name: str
    verdict: str
    tone: Tone
    figures: tuple[tuple[str, str], ...]
    """Name and value of the few figures that matter."""


@dataclass(frozen=True)
class Page:
    """Everything that the template is given."""

    title: str
    headline: str
    tone: Tone
    summary: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    footer: str


def row(*cells: str | Cell) -> tuple[Cell, ...]:
    """A row of a table; text is a plain cell."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def table(
    caption: str, headings: Sequence[str], rows: Iterable[tuple[Cell, ...]], *words: str, folded: bool = False
) -> Table:
    """A table in which the columns named in ``words``, and the first one, hold text."""
    places = {0, *(headings.index(word) for word in words)}
    return Table(caption, tuple(headings), tuple(rows), frozenset(places), folded)


def points(share: float | None, *, signed: bool = False) -> str:
    """A share of 1 in hundredths with two decimals; a dash where there is none."""
    if share is None:
        return "–"
    return f"{100 * share:+.2f}".replace("-", "−") if signed else f"{100 * share:.2f}"


def milliseconds(value: float | None) -> str:
    """Milliseconds with as many decimals as help."""
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"
