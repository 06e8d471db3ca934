"""Class lists: what the labels of a mask mean, their colours, and which ones a mirror exchanges.

A :class:`ClassSet` belongs to a data set and goes with everything that is made of it: weights, engines, scores,
pictures. Two of them are compared by their names (:meth:`ClassSet.difference`), so that labels of one list are never
read as labels of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fptk.core.errors import InputError
from fptk.core.files import sha256_json
from fptk.core.palette import Color, draw_palette

IGNORE = 255
"""Label of pixels that count nowhere, in every mask in memory; what a file holds in its place is the data set's own."""

MAX_CLASSES = IGNORE
"""Labels are bytes, and the last one is :data:`IGNORE`."""

MAX_NAME = 60
"""Longest name of a class, in characters."""

BACKGROUND = "background"
"""Name that marks the first class as what lies around everything else."""

StoredValue = Annotated[int, Field(ge=0, le=65535)]
"""Value of a mask file's pixel."""


class ClassSet(BaseModel):
    """A list of classes. A mask holds the index of a class in it, or :data:`IGNORE`.

    Raises:
        ValidationError: no name, too many, two that are equal or not printable, or one of the other fields does not fit
            them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    """Name of each class, in index order."""
    palette: tuple[Color, ...] = ()
    """RGB colour of each class, 0-255; drawn where none is given (:func:`fptk.core.palette.draw_palette`)."""
    swap_pairs: tuple[tuple[int, int], ...] = ()
    """Classes that a horizontal flip exchanges, e.g. left and right eye."""
    ignore: StoredValue | None = IGNORE
    """What mask files hold where a pixel counts nowhere; ``None`` where there is no such value."""
    values: tuple[tuple[StoredValue, int], ...] = ()
    """(value of a mask file, class) where files hold something else than the index; empty where they hold the index."""

    @model_validator(mode="before")
    @classmethod
    def _draw(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and not fields.get("palette") and isinstance(fields.get("names"), (list, tuple)):
            return {**fields, "palette": draw_palette(min(len(fields["names"]), MAX_CLASSES))}
        return fields

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_names(self.names)
        count = len(self.names)
        if len(self.palette) != count:
            raise ValueError(f"palette has {len(self.palette)} colours for {count} classes")
        if len(set(self.palette)) < count:
            twice = next(color for color in self.palette if self.palette.count(color) > 1)
            first, second = [name for name, color in zip(self.names, self.palette, strict=True) if color == twice][:2]
            raise ValueError(f"'{first}' and '{second}' have the same colour {list(twice)}")
        swapped = [label for pair in self.swap_pairs for label in pair]
        if any(not 0 <= label < count for label in swapped) or len(set(swapped)) < len(swapped):
            raise ValueError(f"flip pairs {list(map(list, self.swap_pairs))} name a class twice, or one that is not")
        stored = [value for value, _ in self.values]
        if len(set(stored)) < len(stored) or self.ignore in stored:
            raise ValueError("one value of the mask files stands for two things")
        if any(not 0 <= label < count for _, label in self.values):
            raise ValueError(f"values give a class that is not among the {count}")
        if not self.values and self.ignore is not None and self.ignore < count:
            raise ValueError(f"ignore {self.ignore} is also the value of class '{self.names[self.ignore]}'")
        return self

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sha256(self) -> str:
        """Hash of every field."""
        return sha256_json(self.model_dump(mode="json"))

    @property
    def outside(self) -> int:
        """Label of what lies outside a photograph: the background where the first class is one, else no class."""
        return 0 if self.names[0] == BACKGROUND else IGNORE

    @property
    def ignores(self) -> bool:
        """Whether masks may hold :data:`IGNORE`."""
        return self.ignore is not None or self.outside == IGNORE

    @property
    def words(self) -> str:
        """The list in a few words: ``11 classes (background, skin, nose, …)``."""
        count = "1 class" if len(self) == 1 else f"{len(self)} classes"
        return f"{count} ({', '.join(self.names[:4])}{', …' if len(self) > 4 else ''})"

    def index(self, name: str) -> int | None:
        """Label of the class ``name``; None where there is none."""
        return self.names.index(name) if name in self.names else None

    def difference(self, other: ClassSet) -> str | None:
        """Where the names of another list differ from these, in words; None where they are the same."""
        for label, (here, there) in enumerate(zip(self.names, other.names, strict=False)):
            if here != there:
                return f"class {label} is '{here}' in the first and '{there}' in the second"
        if len(self) != len(other):
            return f"the first has {len(self)} classes and the second {len(other)}"
        return None

    def swap_table(self) -> tuple[int, ...]:
        """Lookup table of length 256 that maps each label to its label after a horizontal flip."""
        table = list(range(256))
        for left, right in self.swap_pairs:
            table[left], table[right] = right, left
        return tuple(table)

    def flat_palette(self) -> list[int]:
        """The palette as Pillow wants it: R G B of 256 colours. Unused ones are black, :data:`IGNORE` is white."""
        colors = [*self.palette, *[(0, 0, 0)] * (256 - len(self))]
        if self.ignores:
            colors[IGNORE] = (255, 255, 255)
        return [channel for color in colors for channel in color]

    def without_files(self) -> ClassSet:
        """The same classes as fptk's own files hold them: by index, with :data:`IGNORE`."""
        return self.model_copy(update={"values": (), "ignore": IGNORE if self.ignores else None})


def check_names(names: Sequence[str]) -> None:
    """Check the names of a class list.

    Raises:
        ValueError: one is empty, too long, not printable or stands twice.
    """
    for label, name in enumerate(names):
        if not name or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise ValueError(f"class {label} has the name {name[:MAX_NAME]!r}; give printable text of 1 to {MAX_NAME}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes have the name '{twice}'")


def check_same(here: ClassSet, what: str, there: ClassSet, other: str) -> None:
    """Check that two things use one class list.

    Args:
        here: list of the first.
        what: what errors call it.
        there: list of the second.
        other: what errors call that.

    Raises:
        InputError: the names differ.
    """
    difference = here.difference(there)
    if difference:
        raise InputError(
            f"{what} has {here.words}, {other} has {there.words}: {difference}; labels of one list mean nothing in "
            "the other"
        )


def _celebamask() -> ClassSet:
    rows: Iterable[tuple[str, Color]] = (
        ("background", (0, 0, 0)),
        ("skin", (204, 0, 0)),
        ("nose", (76, 153, 0)),
        ("eye_g", (204, 204, 0)),
        ("l_eye", (51, 51, 255)),
        ("r_eye", (204, 0, 204)),
        ("l_brow", (0, 255, 255)),
        ("r_brow", (255, 204, 204)),
        ("l_ear", (102, 51, 0)),
        ("r_ear", (255, 0, 0)),
        ("mouth", (102, 204, 0)),
        ("u_lip", (255, 255, 0)),
        ("l_lip", (0, 0, 153)),
        ("hair", (0, 0, 204)),
        ("hat", (255, 51, 153)),
        ("ear_r", (0, 204, 204)),
        ("neck_l", (0, 51, 0)),
        ("neck", (255, 153, 51)),
        ("cloth", (0, 204, 0)),
    )
    names, palette = zip(*rows, strict=True)
    return ClassSet(names=names, palette=palette, swap_pairs=((4, 5), (6, 7), (8, 9)), ignore=None)


CELEBAMASK = _celebamask()
"""The 19 classes of CelebAMask-HQ with the colours of its release: the default of everything.

Left and right are the subject's own, so the left eye stands right of the right eye in an image. ``eye_g`` is glasses,
``ear_r`` an earring, ``neck_l`` a necklace. The data set ignores no pixel.
"""

LAPA = ClassSet(
    names=("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair"),
    swap_pairs=((2, 3), (4, 5)),
)
"""The 11 classes of LaPa (Liu et al., A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing, AAAI
2020), in the order of its label files. Classes that CelebAMask-HQ has too have their name there; ``mouth`` is the inner
mouth."""

HELEN = LAPA
"""The 11 classes of Helen as Smith et al. labelled it (Exemplar-Based Face Parsing, CVPR 2013): those of LaPa, in the
same order."""

KNOWN: Mapping[str, ClassSet] = MappingProxyType({"celebamask": CELEBAMASK, "lapa": LAPA, "helen": HELEN})
"""The lists that ship, by the name that ``classes.yaml`` gives them."""

CLASSES: tuple[str, ...] = CELEBAMASK.names
"""Names of CelebAMask-HQ's classes."""

NUM_CLASSES = len(CELEBAMASK)

CLASS_INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(CLASSES)})
