"""A first ``classes.yaml`` for a data set, from what its masks hold; a person gives the names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fptk.core.classes import BACKGROUND, IGNORE, KNOWN, MAX_CLASSES, ClassSet
from fptk.core.errors import InputError
from fptk.core.masks import Stored, stored_mask
from fptk.core.progress import SILENT, Listener, track
from fptk.data.class_file import class_file_text
from fptk.data.layouts import find_splits
from fptk.data.parallel import parallel_map

Kind = int | tuple[int, int, int]
"""A value of an index mask, or a colour of a colour mask."""


@dataclass
class Content:
    """What the masks of a data set hold.

    Attributes:
        masks: how many were read.
        pixels: pixels of each value or colour.
        shown: masks that show it.
        palette: colour that the first palette mask gives each value.
        colored: whether masks are colour pictures.
    """

    masks: int = 0
    pixels: Counter[Kind] = field(default_factory=Counter)
    shown: Counter[Kind] = field(default_factory=Counter)
    palette: list[int] | None = None
    colored: bool = False


def propose(data: Path, *, jobs: int | None = None, listener: Listener = SILENT) -> str:
    """The text of a ``classes.yaml`` for a data set, with a name made up for each class and its share behind it.

    Args:
        data: data set root, split folder or list of pairs; a ``classes.yaml`` that it has changes nothing.
        jobs: processes; None for one per core.
        listener: is told how many masks are read.

    Raises:
        InputError: it is of no known layout, a mask is no picture of classes, or there are more than 255 classes.
    """
    splits = find_splits(data).by_name.values()
    masks = [mask for split in splits for mask in split.pairing().masks.values()]
    if not masks:
        raise InputError(f"{data} holds no mask; add masks beside the images")
    content = _content(track(listener, parallel_map(_count, masks, jobs), "reading masks", len(masks)))
    if content.colored and any(isinstance(kind, int) for kind in content.pixels):
        raise InputError(f"{data} holds colour masks and index masks; save all of them in one way")
    classes, kinds = _classes(data, content)
    total = sum(content.pixels.values())
    comments = {
        label: f"{content.pixels[kind] / total:.2%} of pixels, in {content.shown[kind] / content.masks:.0%} of masks"
        for label, kind in enumerate(kinds)
    }
    return "\n".join([*_head(content, classes), class_file_text(classes, comments)])


def _head(content: Content, classes: ClassSet) -> list[str]:
    lines = [f"# Proposed by fptk data classes from {content.masks} masks. Give the classes their names."]
    lines += [
        f"# If they are those of {name}, write 'classes: {name}' in place of the list."
        for name, known in KNOWN.items()
        if len(known) == len(classes)
    ]
    if content.shown[IGNORE] and classes.ignore == IGNORE:
        share = content.pixels[IGNORE] / sum(content.pixels.values())
        lines.append(f"# {share:.2%} of the pixels hold {IGNORE}, taken for pixels that count nowhere.")
    return lines


def _count(mask: Path) -> tuple[Stored, list[tuple[Kind, int]]]:
    stored = stored_mask(mask)
    pixels = stored.pixels
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 2:
        values, counts = np.unique(pixels, return_counts=True)
        found: list[tuple[Kind, int]] = [(int(value), int(count)) for value, count in zip(values, counts, strict=True)]
    else:
        packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        values, counts = np.unique(packed, return_counts=True)
        found = [
            ((int(value) >> 16, int(value) >> 8 & 255, int(value) & 255), int(count))
            for value, count in zip(values, counts, strict=True)
        ]
    if len(found) > MAX_CLASSES + 1:
        raise InputError(f"mask {mask} holds {len(found)} different values; a mask of classes holds at most 256")
    return stored._replace(pixels=np.empty((0, 0), np.uint8)), found


def _content(results: Iterable[tuple[Stored, list[tuple[Kind, int]]]]) -> Content:
    content = Content()
    for stored, found in results:
        content.masks += 1
        content.palette = content.palette or stored.palette
        for kind, count in found:
            content.pixels[kind] += count
            content.shown[kind] += 1
            content.colored = content.colored or not isinstance(kind, int)
    return content


def _classes(data: Path, content: Content) -> tuple[ClassSet, list[Kind]]:
    """The class list, and the value or colour of each class."""
    kinds = sorted(content.pixels, key=lambda kind: kind if isinstance(kind, tuple) else (kind, 0, 0))
    binary = kinds == [0, IGNORE]
    ignores = not content.colored and not binary and IGNORE in kinds
    kinds = [kind for kind in kinds if not (ignores and kind == IGNORE)]
    if not 1 <= len(kinds) <= MAX_CLASSES:
        raise InputError(f"the masks of {data} hold {len(kinds)} classes; 1 to {MAX_CLASSES} are possible")
    first = kinds[0] in (0, (0, 0, 0))
    names = tuple(BACKGROUND if label == 0 and first else f"class_{label}" for label in range(len(kinds)))
    colors = tuple(kind for kind in kinds if isinstance(kind, tuple)) if content.colored else _palette(content, kinds)
    values = tuple((kind, label) for label, kind in enumerate(kinds) if isinstance(kind, int))
    stated = any(value != label for value, label in values)
    return (
        ClassSet(
            names=names,
            palette=colors,
            values=values if stated else (),
            ignore=IGNORE if ignores or not (binary or IGNORE in kinds) else None,
        ),
        kinds,
    )


def _palette(content: Content, kinds: list[Kind]) -> tuple[tuple[int, int, int], ...]:
    """The colours that a palette gives the values; none where there is no palette, or two are alike."""
    flat = content.palette or []
    colors = [tuple(flat[3 * kind : 3 * kind + 3]) for kind in kinds if isinstance(kind, int)]
    if any(len(color) < 3 for color in colors) or len(set(colors)) < len(colors):
        return ()
    return tuple((color[0], color[1], color[2]) for color in colors)
