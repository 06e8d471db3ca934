"""Masks as people have them, read as labels of a class list.

A mask file is an index picture (grey or palette, 1 to 16 bits) whose value is a class, or a colour picture whose colour
is one. What a value means is the :class:`~fptk.core.classes.ClassSet`'s to say. A mask that fits it nowhere is refused
with the file, the value and the remedy.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fptk.core.classes import CELEBAMASK, IGNORE, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.preprocess import Decoded, decoding, is_turned, opened_image

_GRAY_STEP = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey samples of 2 and 4 bits with, by the start of its name for their layout in the file."""

_LOSSY = ("JPEG", "MPO", "JPEG2000")

_PLAIN_COMPONENTS = {0, 255}

_MOST_VALUE = 65535
"""Of 16 bits."""

_SHOWN = 4
"""Values or colours that an error lists."""

_NONE = -1


class Stored(NamedTuple):
    """What a mask file holds, upright.

    Attributes:
        pixels: integers (H, W), or uint8 (H, W, 3) RGB.
        palette: R, G, B of each index, where the file has one.
        turned: whether EXIF turned it.
    """

    pixels: npt.NDArray[Any]
    palette: list[int] | None
    turned: bool


def read_mask(path: Path, classes: ClassSet = CELEBAMASK) -> UInt8Array:
    """Labels of a mask file, uint8 (H, W): indices of ``classes``, or :data:`~fptk.core.classes.IGNORE`.

    The file is turned upright by its EXIF orientation.

    Raises:
        InputError: the file is missing, no regular file, damaged, lossy or of a mode that holds no labels; holds a
            value or a colour that is no class's; or has a palette whose colours name other classes than its indices.
    """
    return decode_mask(path, classes).pixels


def decode_mask(path: Path, classes: ClassSet = CELEBAMASK) -> Decoded:
    """:func:`read_mask`, which also says whether EXIF turned the mask."""
    stored = stored_mask(path)
    pixels = stored.pixels
    if pixels.ndim == 3:
        return Decoded(_labels_of_colors(path, pixels, classes), stored.turned)
    labels = _labels_of_values(path, pixels, classes)
    if stored.palette is not None and not classes.values:
        _check_palette(path, labels, stored.palette, classes)
    return Decoded(labels, stored.turned)


def class_counts(mask: UInt8Array, count: int) -> npt.NDArray[np.int64]:
    """Pixels of each of ``count`` classes in a mask, int64 (count,); ignored ones are in none."""
    return np.bincount(mask.ravel(), minlength=count)[:count].astype(np.int64)


def stored_mask(path: Path) -> Stored:
    """What a mask file holds, unchecked.

    Raises:
        InputError: as :func:`read_mask`, except for what the values are.
    """
    with opened_image(path, "mask") as image:
        if image.format in _LOSSY:
            kind = "JPEG" if image.format == "MPO" else image.format
            raise InputError(f"mask {path} is {kind}, whose losses change labels; save the original labels as PNG")
        if image.format == "WEBP" and not _is_lossless_webp(path):
            raise InputError(f"mask {path} is lossy or animated WebP; save the original labels as lossless WebP")
        indexed = image.mode in ("P", "L", "1") or image.mode.startswith("I")
        if not indexed and image.mode not in ("RGB", "RGBA", "LA"):
            raise InputError(f"mask {path} has mode {image.mode}; expected a grey, palette or RGB picture, e.g. PNG")
        with decoding("mask", path):
            step = _gray_step(image) if indexed else 1
            turned = is_turned(image)
            upright = ImageOps.exif_transpose(image) if turned else image
            if not indexed:
                return Stored(_colors(path, upright), None, turned)
            values = np.array(upright.convert("L") if upright.mode == "1" else upright)
            palette = upright.getpalette() if upright.mode == "P" else None
    return Stored(values // step if step > 1 else values, palette, turned)


def _colors(path: Path, image: Image.Image) -> UInt8Array:
    """RGB of a picture with three equal or different channels, whose alpha must hide nothing."""
    pixels = np.array(image.convert("RGBA"))
    hidden = int((pixels[..., 3] != 255).sum())
    if hidden:
        raise InputError(f"mask {path} has {hidden} transparent pixels; save it without an alpha channel")
    return np.ascontiguousarray(pixels[..., :3])


def _is_lossless_webp(path: Path) -> bool:
    """Whether the one picture of a WebP file is in the chunk ``VP8L`` (RFC 9649); Pillow doesn't tell."""
    with path.open("rb") as handle:
        handle.seek(12)
        while len(head := handle.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 ", b"ANMF"):
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            handle.seek(size + size % 2, 1)
    return False


def _gray_step(image: Image.Image) -> int:
    """Distance of two neighbouring sample values of a picture that isn't decoded yet, as Pillow will give them."""
    if image.mode == "1":
        return 255
    tiles = getattr(image, "tile", None)
    if image.mode != "L" or not tiles:
        return 1
    layout = tiles[0][3]
    return _GRAY_STEP.get(str(layout if isinstance(layout, str) or not layout else layout[0])[:3], 1)


def _labels_of_values(path: Path, values: npt.NDArray[Any], classes: ClassSet) -> UInt8Array:
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if not classes.values and lowest >= 0 and highest < len(classes):
        return values.astype(np.uint8, copy=False)
    if lowest < 0 or highest > _MOST_VALUE:
        value = lowest if lowest < 0 else highest
        raise InputError(f"mask {path} holds {value}, and values of masks are 0-{_MOST_VALUE}; save it as 8-bit PNG")
    labels = _value_table(classes)[values]
    if (labels == _NONE).any():
        unknown, counts = unknown_values(values, classes)
        raise InputError(f"mask {path} holds {_listed(unknown, counts)}; {_remedy(unknown, classes)}")
    found: UInt8Array = labels.astype(np.uint8)
    return found


@lru_cache(maxsize=16)
def _value_table(classes: ClassSet) -> npt.NDArray[np.int16]:
    """Label of each value that a mask file can hold, int16 (65536,); -1 where it is no class's."""
    table = np.full(_MOST_VALUE + 1, _NONE, np.int16)
    for value, label in classes.values or enumerate(range(len(classes))):
        table[value] = label
    if classes.ignore is not None:
        table[classes.ignore] = IGNORE
    return table


def unknown_values(values: npt.NDArray[Any], classes: ClassSet) -> tuple[list[int], list[int]]:
    """Values of a mask that are no class's, and how many pixels hold each."""
    found, counts = np.unique(values, return_counts=True)
    table = _value_table(classes)
    pairs = [
        (int(value), int(count))
        for value, count in zip(found, counts, strict=True)
        if not 0 <= value <= _MOST_VALUE or table[value] == _NONE
    ]
    return [value for value, _ in pairs], [count for _, count in pairs]


def _listed(values: list[int], counts: Any) -> str:
    if len(values) == 1:
        return f"label {values[0]} ({int(counts[0])} px)"
    shown = ", ".join(f"{value} ({int(count)} px)" for value, count in zip(values[:_SHOWN], counts, strict=False))
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f"labels {shown}{more}"


def _remedy(unknown: list[int], classes: ClassSet) -> str:
    """What the values should be, and how to say that they are right."""
    if classes.values:
        known = f"classes.yaml gives classes to {', '.join(str(value) for value, _ in classes.values[:8])}"
    else:
        known = f"the {len(classes)} classes are 0-{len(classes) - 1}"
    if unknown == [IGNORE]:
        return f"{known}: if {IGNORE} marks pixels that count nowhere, write 'ignore: {IGNORE}' into classes.yaml"
    return f"{known}: mend the mask, or state your own classes in classes.yaml ('fptk data classes DIR' proposes one)"


def _labels_of_colors(path: Path, pixels: UInt8Array, classes: ClassSet) -> UInt8Array:
    """Labels of a colour picture: by the palette; a grey one, whose greys are no classes' colours, by its values."""
    palette, order = _packed_palette(classes)
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    places = np.searchsorted(palette, packed).clip(max=len(palette) - 1)
    known = palette[places] == packed
    if known.all():
        labels: UInt8Array = order[places]
        return labels
    if (pixels == pixels[..., :1]).all():
        return _labels_of_values(path, pixels[..., 0], classes)
    colors, counts = np.unique(packed[~known], return_counts=True)
    worst = np.argsort(-counts, kind="stable")[:_SHOWN]
    shown = ", ".join(f"#{colors[at]:06x} ({counts[at]} px)" for at in worst)
    more = f" and {len(colors) - _SHOWN} more" if len(colors) > _SHOWN else ""
    raise InputError(
        f"mask {path} is a colour picture with colours that no class has: {shown}{more}; give each class its color in "
        "classes.yaml, or save the mask with each pixel's class as its value"
    )


@lru_cache(maxsize=16)
def _packed_palette(classes: ClassSet) -> tuple[npt.NDArray[np.int32], UInt8Array]:
    """The colours as sorted numbers, int32 (C,), and the class of each, uint8 (C,)."""
    packed = np.array(classes.palette, np.int32) @ np.array([65536, 256, 1], np.int32)
    order = np.argsort(packed)
    return packed[order], order.astype(np.uint8)


def _check_palette(path: Path, labels: UInt8Array, flat: list[int], classes: ClassSet) -> None:
    """Refuse a mask whose used colours are class colours of other classes than its indices say.

    A tool that sorts or shortens palettes leaves such masks: they look right and hold other labels. Colours that aren't
    the classes' say nothing, nor do black and the pure ones, which many palettes have.

    Raises:
        InputError: it is one; the first such index is named.
    """
    palette = classes.palette
    if flat[: 3 * len(classes)] == [channel for color in palette for channel in color]:
        return
    used = np.flatnonzero(np.bincount(labels.ravel())[: len(classes)]).tolist()
    colors = [(*flat[3 * index : 3 * index + 3],) for index in used]
    if len(set(colors)) < len(colors) or not set(colors) <= set(palette):
        return
    if all(set(color) <= _PLAIN_COMPONENTS for color in colors):
        return
    for index, color in zip(used, colors, strict=True):
        if color != palette[index]:
            meant = palette.index(color)
            raise InputError(
                f"mask {path} has the class colours in another order: its index {index} ({classes.names[index]}) has "
                f"the colour of class {meant} ({classes.names[meant]}); a tool has re-ordered the palette, "
                "save the mask with each pixel's class as its index"
            )
